"""The callback that keeps ``report.html`` of a run that trains up to date."""

import time

import lightning

from sdlora.commands.train.safe_end import how_to_go_on
from sdlora.commands.train.training_run import TrainingRun
from sdlora.reports.page import FILE_NAME, write_html_report
from sdlora.reports.run_state import FAILED, QUIET_S, RUNNING, STOPPED, RunState
from sdlora.reports.thumbnails import Thumbnails
from sdlora.runs.samples import write_training
from sdlora.runtime.places import from_here
from sdlora.runtime.program import message_of
from sdlora.training.callbacks.every_n_steps import OptimizerStepCallback, every
from sdlora.training.module import DiffusionModule

EVERY_S = 60.0
"""Seconds between two writings without new pictures."""

LARGEST_SHARE = 0.02
"""Share of the time that those may take."""


class LivePage(OptimizerStepCallback):
    """Writes the page at the first step, after pictures and scores, and now and then between.

    It comes after the callback that draws.

    Args:
        run: The run.
    """

    def __init__(self, run: TrainingRun) -> None:
        self._run = run
        self._thumbnails = Thumbnails()
        self._began = self._written = time.monotonic()
        self._first_step = run.first_step
        self._took_s = 0.0
        self._longest_pause_s = 0.0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write the page before the first step, and say where it is."""
        if not trainer.is_global_zero:
            return
        with self._run.progress.tolerating("training pictures"):
            write_training(self._run.folder, self._run.evaluator.training_images)
        self._began = self._written = time.monotonic()
        self._first_step = trainer.global_step
        self._write(RunState(RUNNING, go_on=how_to_go_on(self._run.folder)))
        page = from_here(self._run.folder / FILE_NAME)
        self._run.progress.print(f"Watch: {page} (updates itself)")

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Write it where pictures or scores were due, or the last writing is old."""
        config = self._run.config
        intervals = (config.sampling.every_n_steps, config.evaluation.every_n_steps)
        due = any(every(step, interval) for interval in intervals)
        rest_s = max(EVERY_S, self._took_s / LARGEST_SHARE)
        if trainer.is_global_zero and (due or time.monotonic() - self._written > rest_s):
            self.write_running(step)

    def write_running(self, step: int) -> None:
        """Write the page of this step."""
        now = time.monotonic()
        self._longest_pause_s = max(self._longest_pause_s, now - self._written)
        done, left = step - self._first_step, self._run.trainer.max_steps - step
        self._write(
            RunState(
                RUNNING,
                left_s=(now - self._began) / done * left if done > 0 else None,
                quiet_s=max(QUIET_S, 2 * self._longest_pause_s),
                go_on=how_to_go_on(self._run.folder),
            )
        )

    def write_stopped(self, reason: str) -> None:
        """Write the page of a run that ended before its last step, and can go on."""
        self._write(RunState(STOPPED, go_on=how_to_go_on(self._run.folder), reason=reason))

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Write why the run failed."""
        if not trainer.is_global_zero:
            return
        if isinstance(exception, Exception):
            self._write(RunState(FAILED, reason=message_of(exception)))
        else:
            self.write_stopped("")

    def write_end(self) -> None:
        """Write the page of a run that is exported, with all there is.

        Raises:
            OSError: If it cannot be written.
        """
        write_html_report(self._run.folder, None, self._thumbnails)

    def _write(self, state: RunState) -> None:
        began = time.monotonic()
        with self._run.progress.tolerating(FILE_NAME):
            write_html_report(self._run.folder, state, self._thumbnails)
        self._written = time.monotonic()
        self._took_s = self._written - began
