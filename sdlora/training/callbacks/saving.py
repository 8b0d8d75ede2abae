"""The callback that writes checkpoints and adapter files, and removes old ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch

from sdlora.runs.checkpoints import STATE, problem_of, step_folder, steps_on_disk
from sdlora.runtime.program import message_of
from sdlora.training.callbacks.every_n_steps import OptimizerStepCallback, every
from sdlora.training.leavable_ddp import LeavableDDP
from sdlora.training.module import DiffusionModule, TrainingError


class Checkpoints(OptimizerStepCallback):
    """Writes a checkpoint, and the adapter beside it, every N steps and at the end.

    Args:
        folder: The run's ``checkpoints`` folder.
        every_n_steps: Optimizer steps between checkpoints; 0: only the last.
        keep_last: Number of checkpoints that stay on disk; ``None``: all.
        write_adapter: Writes the adapter's own files into a step's folder.
        say: Prints a line.
    """

    def __init__(
        self,
        folder: Path,
        every_n_steps: int,
        keep_last: int | None,
        write_adapter: Callable[[Path], None],
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last
        self.write_adapter = write_adapter
        self.say = say
        self._is_updating = False

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Save if a checkpoint is due; a full disk stops the run only at its last step."""
        at_end = step == trainer.max_steps or trainer.should_stop
        if not at_end and not every(step, self.every_n_steps):
            return
        try:
            self.save(trainer, module)
        except OSError as error:
            if at_end:
                raise
            self.say(f"no checkpoint at step {step} ({error}); training continues to the next one")

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Any
    ) -> None:
        """Note that weights change from here to the end of the step."""
        self._is_updating = True

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if a checkpoint is due; the weights are those of a whole step."""
        self._is_updating = False
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Save the last whole step, if something other than the training itself failed.

        Of several processes the first saves what all have alike, its own last whole step, and
        waits for no other one.
        """
        is_spoilt = self._is_updating or isinstance(exception, TrainingError)
        is_whole = isinstance(exception, Exception) and not is_spoilt and trainer.global_step > 0
        if not is_whole or not trainer.is_global_zero:
            return
        if isinstance(trainer.strategy, LeavableDDP):
            trainer.strategy.leave()
        assert isinstance(pl_module, DiffusionModule)
        try:
            self.save(trainer, pl_module)
        except Exception as error:  # a full disk, a lost device
            self.say(f"step {trainer.global_step} cannot be saved ({message_of(error)})")

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Save a run that stops early at its last step."""
        assert isinstance(pl_module, DiffusionModule)
        self.save(trainer, pl_module)

    def save(self, trainer: lightning.Trainer, module: DiffusionModule) -> None:
        """Write this step's checkpoint, then remove old ones.

        Raises:
            TrainingError: If a trained weight is NaN or infinite; such weights are never saved.
        """
        for name, parameter in module.all_trained_parameters().items():
            if not torch.isfinite(parameter).all():
                raise TrainingError(
                    f"{name} is NaN or infinite at step {trainer.global_step}; nothing was saved "
                    "from it. Start a new run with a lower learning rate"
                )
        folder = step_folder(self.folder, trainer.global_step)
        is_there = trainer.is_global_zero and problem_of(folder) is None
        if trainer.strategy.broadcast(is_there):  # others may look when the first has written
            return
        try:
            if trainer.is_global_zero:
                folder.mkdir(parents=True, exist_ok=True)
                self.write_adapter(folder)
            trainer.save_checkpoint(folder / STATE, weights_only=False)
        except OSError:
            trainer.strategy.barrier()  # the others wait for this one, which alone writes
            raise
        self._remove_old(trainer)

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Convert the count of micro-batches to this run's number of devices.

        It is that of a checkpoint at the end of a step, also where the run failed within the next.
        """
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        done = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for counts in (progress["total"], progress["current"]):
            counts.update(ready=done, started=done, processed=done, completed=done - 1)

    def _remove_old(self, trainer: lightning.Trainer) -> None:
        if self.keep_last is None or not trainer.is_global_zero:
            return
        # a later step is a damaged one that resuming passed over: it takes no place of a whole one
        done = [step for step in steps_on_disk(self.folder) if step <= trainer.global_step]
        for step in done[: -self.keep_last]:
            trainer.strategy.remove_checkpoint(step_folder(self.folder, step) / STATE)
