"""The callback of the training bar and of throughput, learning rates and peak memory."""

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import psutil
import torch
from rich.progress import TaskID
from torch.optim.lr_scheduler import LambdaLR

from sdlora.data.batches.dataset import Batch
from sdlora.runs.metrics import MetricsFile
from sdlora.runtime.progress import STEPS_A_LINE, Progress
from sdlora.training.callbacks.every_n_steps import OptimizerStepCallback, every
from sdlora.training.module import DiffusionModule


class Throughput(OptimizerStepCallback):
    """Logs images per second, epoch, learning rates and peak memory; drawing is not timed.

    Args:
        num_samples: Samples of an epoch.
        progress: The display; it gets the training bar.
        folder: The run folder, whose ``metrics.jsonl`` is written.
        log_every_n_steps: Optimizer steps between points of the curves.
    """

    def __init__(
        self,
        num_samples: int,
        progress: Progress,
        folder: Path,
        log_every_n_steps: int,
    ) -> None:
        self.num_samples = num_samples
        self.progress = progress
        self.metrics = MetricsFile(folder, progress)
        self.log_every_n_steps = log_every_n_steps
        self._bar: TaskID | None = None
        self._note = ""
        self._began = 0.0
        self._busy_s = 0.0
        self._images = 0
        self._seen = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the bar at the current step, and say where a resumed run's rate leaps."""
        self._bar = self.progress.add(
            "Training", trainer.max_steps, trainer.global_step, STEPS_A_LINE
        )
        if leaps := list(_leaps(trainer)):
            self.progress.print(
                f"note: {trainer.max_steps} steps stretch the learning-rate schedule: "
                f"{', '.join(leaps)}; scheduler=constant in a new run has one rate throughout"
            )

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *batch: Any
    ) -> None:
        """Start the clock of this batch, so that drawing is not counted."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop the clock of this batch."""
        assert isinstance(batch, Batch)
        self._busy_s += time.perf_counter() - self._began
        self._images += len(batch) * trainer.world_size
        self._seen = int(batch.sample_index[-1]) + 1
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Log if a point of the curve is due, and update the bar."""
        assert self._bar is not None, "training has started"
        self.progress.update(self._bar, step, self._note)
        if not every(step, self.log_every_n_steps):
            return
        rate = self._images / self._busy_s
        values = {
            "train/images_per_s": rate,
            "train/epoch": self._seen / self.num_samples,
            "train/peak_memory_mib": peak_memory_mib(module.device),
            **{
                f"train/lr_{group['name']}": float(group["lr"])
                for group in trainer.optimizers[0].param_groups
            },
        }
        loss = trainer.callback_metrics.get("train/loss")
        self._busy_s, self._images = 0.0, 0
        for logger in trainer.loggers:
            logger.log_metrics(values, step)
        if loss is not None:
            values["train/loss"] = float(loss)
            lr = float(trainer.optimizers[0].param_groups[0]["lr"])
            self._note = f"loss {float(loss):.4f}, lr {lr:.2g}, {rate:.1f} images/s"
        if trainer.is_global_zero:
            self.metrics.append(step, values)

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self.progress.remove(self._bar)


def _leaps(trainer: lightning.Trainer) -> Iterator[str]:
    """Rates that a schedule of another length has at the step of the checkpoint."""
    for configured in trainer.lr_scheduler_configs:
        schedule = configured.scheduler
        if not isinstance(schedule, LambdaLR):
            continue
        groups = schedule.optimizer.param_groups
        for group, base, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            before, now = float(group["lr"]), float(base) * factor(schedule.last_epoch)
            if not math.isclose(before, now, rel_tol=0.01):
                yield f"the rate of {group['name']} goes from {before:.3g} to {now:.3g}"


def peak_memory_mib(device: torch.device) -> float:
    """Most memory in use so far, in MiB: the GPU's where there is one, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return memory.peak_wset / 2**20
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
