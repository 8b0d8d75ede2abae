"""A run as a cell of a sweep: its ``cell.json``, and the sweep's progress line and page."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

import torch
from filelock import FileLock

from sdlora.adapters.lora_places import DIFFUSERS_FILE
from sdlora.commands.train.training_run import TrainingRun
from sdlora.evaluation.selection import Rule
from sdlora.reports.sweep_page import write_sweep_report
from sdlora.runs.run_folder import LORA
from sdlora.runtime.kept import Kept
from sdlora.runtime.program import message_of
from sdlora.runtime.progress import Progress
from sdlora.sweep.plan import read_planned
from sdlora.sweep.state import (
    DONE,
    FAILED,
    RUNNING,
    CellState,
    Standing,
    read_state,
    standing,
    write_state,
)
from sdlora.training.callbacks.speed import peak_memory_mib


class Cell:
    """Marks a cell as running, then done or failed; a killed one stays running.

    Args:
        folder: Its run folder in the sweep's folder, locked by this process.
        rule: Rule of the best cell.
        kept: Holds the warnings of earlier cells.
        progress: Prints the sweep's line.
    """

    def __init__(self, folder: Path, rule: Rule, kept: Kept, progress: Progress) -> None:
        self.folder = folder
        self.sweep = folder.parent
        self.rule = rule
        self.kept = kept
        self.progress = progress

    def __enter__(self) -> Self:
        before = read_state(self.folder)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._state = CellState(
            state=RUNNING,
            started=before.started if before else now,
            seconds=before.seconds if before else 0.0,
        )
        self._began = perf_counter()
        self._peak_before = peak_memory_mib(torch.device("cpu"))
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        write_state(self.folder, self._state)
        found = self._standing()
        self._bar = self.progress.add("Sweep", None if found is None else found.total)
        if found is not None:
            self.progress.update(self._bar, found.done, found.line(self.rule.score))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        state, reason = DONE, None
        if isinstance(error, Exception):
            state, reason = FAILED, message_of(error)
            _let_go(error)
        elif error is not None:  # Ctrl-C or SIGTERM: the same command continues
            state = RUNNING
        seconds = round(self._state.seconds + perf_counter() - self._began, 1)
        write_state(self.folder, replace(self._state, state=state, reason=reason, seconds=seconds))
        self.progress.remove(self._bar)
        found = self._standing()
        if found is not None:
            self.progress.print(f"sweep {self.sweep}: {found.line(self.rule.score)}")
        # cells of other processes end, too
        with self._warned("its page"), FileLock(self.sweep / ".report.lock"):
            write_sweep_report(self.sweep)

    def note(self, run: TrainingRun) -> None:
        """Record parameters, memory and file size of the run."""
        device = run.trainer.strategy.root_device
        peak: float | None = peak_memory_mib(device)
        if device.type != "cuda" and peak == self._peak_before:
            peak = None
        file = self.folder / LORA / DIFFUSERS_FILE
        trained = run.module.all_trained_parameters().values()
        self._state = replace(
            self._state,
            peak_memory_mib=peak,
            trainable_parameters=sum(parameter.numel() for parameter in trained),
            file_bytes=file.stat().st_size if file.is_file() else None,
        )

    def _standing(self) -> Standing | None:
        with self._warned("its standing"):
            planned = read_planned(self.sweep)
            return standing(planned.folders, self.rule, planned.num_cells)
        return None

    @contextmanager
    def _warned(self, what: str) -> Iterator[None]:
        """Turn an error of the sweep's line or page into one warning for all cells."""
        try:
            yield
        except Exception as error:
            if self.kept.take(what, type(error), lambda: True):
                self.progress.print(
                    f"warning: sweep {self.sweep}: {what} cannot be written ({message_of(error)}); "
                    "the cells continue, and sdlora evaluate sweep=FOLDER writes it once that is "
                    "fixed"
                )
            self.kept.put(what, type(error), False)


def _let_go(error: BaseException) -> None:
    """Free the models in an error's frames, since Hydra keeps errors until the end."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
