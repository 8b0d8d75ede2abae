"""Ctrl-C and SIGTERM: the step is finished and saved first."""

import signal
import sys
from types import FrameType
from typing import Any

import lightning

from sdlora.callbacks.steps import OptimizerStepCallback
from sdlora.module import DiffusionModule


class StopSignals(OptimizerStepCallback):
    """Turns SIGINT and SIGTERM into a stop after the current optimizer step.

    The step is finished and saved first, so a resumed run goes on exactly. Before the first step,
    while the base's pictures are drawn, there is nothing to save; then, and at a second SIGINT, it
    stops at once. ``self.received`` names the signal afterwards; the exit code is 128 plus its
    number.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._has_begun = False
        self._before: dict[int, Any] = {}

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Take the signals over, from Lightning too: its SIGTERM ends a run within a step."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._remember)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *batch: Any
    ) -> None:
        """From here on there is something to save."""
        self._has_begun = True

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Give the signals back."""
        self._give_back()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Give the signals back."""
        self._give_back()

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Ask the trainer to stop; ``Checkpoints`` comes after this and saves."""
        if self.received is not None:
            trainer.should_stop = True

    def _give_back(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _remember(self, number: int, frame: FrameType | None) -> None:
        is_second = self.received is not None and number == signal.SIGINT
        if is_second or not self._has_begun:
            raise SystemExit(128 + number)  # Lightning turns a KeyboardInterrupt into exit code 1
        self.received = number
        print("stopping after this step; Ctrl-C once more stops at once", file=sys.stderr)
