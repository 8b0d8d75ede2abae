"""The callback that stops at a signal after the current step, which is saved."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning
import torch
from torch import distributed

from sdlora.runtime.signals import stop_signals
from sdlora.training.callbacks.every_n_steps import OptimizerStepCallback
from sdlora.training.module import DiffusionModule


class Interrupted(BaseException):
    """Work that a signal ends at once, such as drawing; the step before it is whole."""


class StopSignals(OptimizerStepCallback):
    """Turns Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 into a stop after the optimizer step.

    The step is finished and saved first, so a resumed run continues exactly. Before the first step
    there is nothing to save; then, and at a second SIGINT, it stops at once. ``self.received``
    names the signal afterwards; the exit code is 128 plus its number.

    Several processes stop at the same step, even if the signal reaches only one: after each step
    they start an asynchronous exchange of received signals, and read it after the next one, so that
    no process waits. It uses gloo, since NCCL would wait for the GPU.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._group: Any = None
        self._told: tuple[torch.Tensor, Any] | None = None
        self._has_begun = False
        self._speaks = True
        self._is_interruptible = False
        self._before: dict[int, Any] = {}

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Leave the block at once when a signal comes."""
        self._is_interruptible = True
        try:
            yield
        except Interrupted:
            pass
        finally:
            self._is_interruptible = False

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Install the signal handlers, also over Lightning's, which ends a run within a step."""
        self._speaks = trainer.is_global_zero
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
        for number in stop_signals():
            self._before[number] = signal.signal(number, self._remember)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *batch: Any
    ) -> None:
        """Note that there is something to save from now on."""
        self._has_begun = True

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Restore the signal handlers."""
        self.received = self._heard() or self.received
        self._give_back()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Restore the signal handlers."""
        self._give_back()

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Ask the trainer to stop; ``Checkpoints`` comes after this and saves."""
        agreed = self.received if self._group is None else self._agreed()
        if agreed is not None:
            self.received = agreed
            trainer.should_stop = True

    def _agreed(self) -> int | None:
        """The signal that some process had received by the previous step; the same in all."""
        heard = self._heard()
        number = torch.tensor(self.received or 0)
        largest = distributed.ReduceOp.MAX
        work = distributed.all_reduce(number, largest, group=self._group, async_op=True)
        self._told = number, work
        return heard

    def _heard(self) -> int | None:
        if self._told is None:
            return None
        number, work = self._told
        self._told = None
        work.wait()
        return int(number) or None

    def _give_back(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _remember(self, number: int, frame: FrameType | None) -> None:
        is_second = self.received is not None and number == signal.SIGINT
        if is_second or not self._has_begun:
            raise SystemExit(128 + number)  # Lightning turns a KeyboardInterrupt into exit code 1
        self.received = number
        if self._speaks:
            print("stopping after this step; Ctrl-C once more stops at once", file=sys.stderr)
        if self._is_interruptible:
            self._is_interruptible = False
            raise Interrupted
