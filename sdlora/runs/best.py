"""The chosen adapter of a run: its files and scores in ``lora/`` (whole models: ``pipeline/``)."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdlora.evaluation.scores import Scores, scores_from
from sdlora.evaluation.selection import Rule
from sdlora.runs.run_folder import LORA, PIPELINE
from sdlora.runtime.files import whole_folder, write_json

SCORES = "scores.json"
"""File in the chosen folder with its step, the rule and all its scores."""

OLDER = "best"
"""Folder of the chosen adapter in runs of older versions, whose ``lora/`` is the last step's."""

CHOSEN_IN = (LORA, PIPELINE, OLDER)
"""Folders that may hold the choice; the first that has it counts."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint so far.

    Attributes:
        step: Optimizer step that it was scored at.
        scores: All its scores.
    """

    step: int
    scores: Scores


class BestAdapter:
    """Keeps the adapter of the best scored step in the run folder.

    The choice is on the disk, so a resumed run compares with it. ``best/`` of an older version's
    run takes its place in ``folder``.

    Args:
        run: The run folder.
        rule: The rule of the choice.
        write_adapter: Writes the adapter's files into a folder.
        name: Name of the chosen folder.

    Attributes:
        folder: The chosen folder; missing before the first choice.
        best: The choice so far.
    """

    def __init__(
        self, run: Path, rule: Rule, write_adapter: Callable[[Path], None], name: str = LORA
    ) -> None:
        self.folder = run / name
        self.rule = rule
        self._write_adapter = write_adapter
        _move_older(run, self.folder)
        self.best = read_best(run)

    def consider(self, step: int, scores: Scores, base: Scores) -> bool:
        """Keep the current adapter, if it is better than any before.

        Args:
            step: Current optimizer step.
            scores: Its scores.
            base: Scores of the base on the same prompts and noise.

        Returns:
            Whether it was kept.
        """
        cost = self.rule.cost(scores, base)
        if cost is None:
            return False
        before = None if self.best is None else self.rule.cost(self.best.scores, base)
        if before is not None and cost >= before:
            return False
        best = Best(step, scores)
        with whole_folder(self.folder) as temporary:
            self._write_adapter(temporary)
            self.write_choice(temporary, best)
        self.best = best
        return True

    def write_choice(self, folder: Path, best: Best) -> None:
        """Write step, rule and scores of a choice beside its files."""
        stored = {"step": best.step, "rule": asdict(self.rule), "scores": asdict(best.scores)}
        write_json(folder / SCORES, stored)


def chosen_folder(run: Path) -> Path | None:
    """Folder of a run's chosen adapter or model; ``None`` if no step was chosen by its scores."""
    folders = [run / name for name in CHOSEN_IN]
    return next((folder for folder in folders if _read(folder) is not None), None)


def read_best(run: Path) -> Best | None:
    """The chosen checkpoint of a run folder; ``None`` if it has none that can be read."""
    folder = chosen_folder(run)
    return None if folder is None else _read(folder)


def _read(folder: Path) -> Best | None:
    try:
        stored: Any = json.loads((folder / SCORES).read_text("utf-8"))
        return Best(int(stored["step"]), scores_from(stored["scores"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _move_older(run: Path, folder: Path) -> None:
    """Put the choice of an older version's run where this version keeps it.

    A whole model lay in a folder of its own beside the scores.
    """
    if chosen_folder(run) != run / OLDER:
        return
    with whole_folder(folder) as temporary:
        for path in (run / OLDER).iterdir():
            into = temporary if path.name == PIPELINE else temporary / path.name
            if path.is_dir():
                shutil.copytree(path, into, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, into)
    shutil.rmtree(run / OLDER)
