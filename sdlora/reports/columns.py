"""Columns of the page's gallery: the steps of a run, or the rows of a report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlora.runs.partial_files import inside
from sdlora.runs.report import REPORT
from sdlora.runs.samples import BASE, LAST


@dataclass(frozen=True, slots=True)
class Column:
    """The pictures of one state of the model.

    Attributes:
        label: Unique label of the state.
        folder: Folder of its pictures.
        is_base: Whether it is the base model.
        step: Optimizer step, if the columns are the steps of a run.
    """

    label: str
    folder: Path
    is_base: bool = False
    step: int | None = None

    @property
    def short(self) -> str:
        """Short label under a small picture."""
        return self.label if self.step is None else str(self.step)


def step_columns(samples: Path, last_step: int | None) -> list[Column]:
    """``samples/base``, ``samples/step_.../`` and ``samples/last`` of a run folder.

    Args:
        samples: The folder.
        last_step: Step of ``last``; None: one after the last step folder.
    """
    steps: dict[int, Path] = {}
    for folder in sorted(samples.glob("step_*/")):
        number = folder.name.removeprefix("step_")
        if folder.is_dir() and number.isdecimal():
            steps[int(number)] = folder
    last = samples / LAST
    if last.is_dir():
        steps[max(steps, default=0) + 1 if last_step is None else last_step] = last
    base = Column("base", samples / BASE, is_base=True)
    return [base, *(Column(f"step {step}", steps[step], step=step) for step in sorted(steps))]


def row_columns(run: Path, folders: Mapping[str, Any], base: str, notes: list[str]) -> list[Column]:
    """The picture folders named in ``report.json``, the base's first.

    Args:
        run: The folder of the page; names are relative to it and must stay inside.
        folders: Label -> name of the folder.
        base: Label of the base.
        notes: Gets the skipped rows.
    """
    columns = []
    for label, name in folders.items():
        path = inside(run, name)
        if path is None:
            notes.append(f"{REPORT}: the pictures of {label} are not in this folder.")
            continue
        columns.append(Column(label, path, is_base=label == base))
    return sorted(columns, key=lambda column: not column.is_base)
