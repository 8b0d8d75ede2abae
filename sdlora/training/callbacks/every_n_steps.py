"""Base class of callbacks that act after optimizer steps, and the test of an interval."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from sdlora.training.module import DiffusionModule


def every(step: int, interval: int) -> bool:
    """Whether an action of every ``interval`` steps is due at ``step``; 0: never."""
    return interval > 0 and step > 0 and step % interval == 0


class OptimizerStepCallback(Callback):
    """Calls ``on_optimizer_step`` once after each optimizer step (not after each micro-batch)."""

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Lightning's hook; a step ends with its accumulation window."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            assert isinstance(pl_module, DiffusionModule)
            self.on_optimizer_step(trainer, pl_module, trainer.global_step)

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Called after optimizer step number ``step`` (the first is 1)."""
