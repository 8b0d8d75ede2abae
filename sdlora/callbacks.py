"""What happens around the training steps: checkpoints, EMA, pictures, scores, speed, signals."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import psutil
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.progress import TaskID
from torch import Tensor, nn

from sdlora.checkpoint import STATE, problem_of, step_folder, steps_on_disk
from sdlora.evaluator import Evaluation, Evaluator
from sdlora.module import DiffusionModule, TrainingError
from sdlora.progress import Progress
from sdlora.report import append_metrics


def every(step: int, interval: int) -> bool:
    """Whether something done every ``interval`` steps is due at ``step``; 0 means never."""
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
        """Lightning's hook; steps only count where an accumulation window ends."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            assert isinstance(pl_module, DiffusionModule)
            self.on_optimizer_step(trainer, pl_module, trainer.global_step)

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Called after optimizer step number ``step`` (the first is 1)."""


class ExponentialMovingAverage(OptimizerStepCallback):
    """An average of the trained weights over the steps, which replaces them at the end.

    The decay warms up as ``min(decay, (1 + n) / (10 + n))``, so that the average forgets the
    start (as in TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).

    Args:
        decay: Share of the old average that each step keeps; [0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Begin with the weights as they are, or go on with the restored average."""
        assert isinstance(pl_module, DiffusionModule)
        self.average = {
            name: self.average.get(name, parameter.detach()).to(parameter).clone()
            for name, parameter in pl_module.all_trained_parameters().items()
        }

    @torch.no_grad()
    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Move the average towards the weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = module.all_trained_parameters()
        names = list(self.average)
        torch._foreach_lerp_(
            [self.average[name] for name in names],
            [weights[name].detach() for name in names],
            1 - decay,
        )

    @contextmanager
    def applied(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Within the block the model has the averaged weights."""
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        copy_into(parameters, self.average)
        try:
            yield
        finally:
            copy_into(parameters, kept)

    def state_dict(self) -> dict[str, Any]:
        """The average, for the checkpoint."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average back from a checkpoint."""
        self.average = state_dict["average"]


@torch.no_grad()
def copy_into(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Overwrite parameters by name."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


class Checkpoints(OptimizerStepCallback):
    """Writes a checkpoint, and the adapter beside it, every N steps and at the end.

    Args:
        folder: The run's ``checkpoints`` folder.
        every_n_steps: Optimizer steps between checkpoints; 0: only the last.
        keep_last: How many stay on disk; ``None``: all.
        write_adapter: Writes the adapter's own files into a step's folder.
        say: Shows a line to the person who waits.
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

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Save where a checkpoint is due; a full disk stops the run only at its last step."""
        at_end = step == trainer.max_steps or trainer.should_stop
        if not at_end and not every(step, self.every_n_steps):
            return
        try:
            self.save(trainer, module)
        except OSError as error:
            if at_end:
                raise
            self.say(f"no checkpoint at step {step} ({error}); training goes on to the next one")

    def save(self, trainer: lightning.Trainer, module: DiffusionModule) -> None:
        """Write this step's checkpoint, then remove those that are too many.

        Raises:
            TrainingError: If a trained weight is NaN or infinite; such weights are never saved.
        """
        for name, parameter in module.all_trained_parameters().items():
            if not torch.isfinite(parameter).all():
                raise TrainingError(
                    f"{name} is NaN or infinite at step {trainer.global_step}; nothing was saved "
                    "from it. Resume from the last checkpoint with a lower learning rate"
                )
        folder = step_folder(self.folder, trainer.global_step)
        if problem_of(folder) is None:
            return
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            self.write_adapter(folder)
        trainer.save_checkpoint(folder / STATE, weights_only=False)
        self._remove_old(trainer)

    def _remove_old(self, trainer: lightning.Trainer) -> None:
        if self.keep_last is None or not trainer.is_global_zero:
            return
        # a later step is a damaged one that resuming passed over: it takes no place of a whole one
        done = [step for step in steps_on_disk(self.folder) if step <= trainer.global_step]
        for step in done[: -self.keep_last]:
            trainer.strategy.remove_checkpoint(step_folder(self.folder, step) / STATE)


class StopSignals(OptimizerStepCallback):
    """Turns SIGINT and SIGTERM into a stop after the current optimizer step.

    The step is finished and saved first, so a resumed run goes on exactly. A second SIGINT stops
    at once. ``self.received`` names the signal afterwards; the exit code is 128 plus its number.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Take the signals over, from Lightning too: its SIGTERM ends a run within a step."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._remember)

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
        if self.received is not None and number == signal.SIGINT:
            raise SystemExit(128 + number)  # Lightning turns a KeyboardInterrupt into exit code 1
        self.received = number
        print("stopping after this step; Ctrl-C once more stops at once", file=sys.stderr)


class Evaluate(OptimizerStepCallback):
    """Draws validation pictures and scores them, at the start (the base) and while training.

    Args:
        evaluator: Draws and scores.
        pictures_every_n_steps: Steps between picture grids; 0: only at the end.
        scores_every_n_steps: Steps between scores; 0: only at the end.
        folder: The run folder; ``samples/`` and ``metrics.jsonl`` are written in it.
        average: If weights are averaged: pictures show the average.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        pictures_every_n_steps: int,
        scores_every_n_steps: int,
        folder: Path,
        average: ExponentialMovingAverage | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.pictures_every_n_steps = pictures_every_n_steps
        self.scores_every_n_steps = scores_every_n_steps
        self.folder = folder
        self.average = average
        self.last: Evaluation | None = None

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Draw and score the bare base once: the control row of everything that follows."""
        if not trainer.is_global_zero:
            return
        base = self.evaluator.draw_base()
        if trainer.global_step == 0:  # a resumed run has this line
            append_metrics(self.folder / "metrics.jsonl", 0, base.named("base"))

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Pictures and scores where they are due; the last step always has both."""
        if not trainer.is_global_zero:
            return
        at_end = step == trainer.max_steps
        scored = at_end or every(step, self.scores_every_n_steps)
        if not scored and not every(step, self.pictures_every_n_steps):
            return
        parameters = module.all_trained_parameters()
        with self.average.applied(parameters) if self.average else nullcontext():
            evaluation = self.evaluator.draw(preview=not scored)
        path = self.folder / "samples" / f"step_{step:07d}.png"
        grid = self.evaluator.write_grid(path, evaluation, f"step {step}")
        if scored:
            self.last = evaluation
            append_metrics(self.folder / "metrics.jsonl", step, evaluation.named("eval"))
        self._log(trainer, step, grid, evaluation.named("eval") if scored else {})

    def _log(
        self,
        trainer: lightning.Trainer,
        step: int,
        grid: Any,
        scores: Mapping[str, float | None | str],
    ) -> None:
        numbers = {name: value for name, value in scores.items() if isinstance(value, float | int)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step)
            if isinstance(logger, TensorBoardLogger):
                pixels = torch.frombuffer(bytearray(grid.tobytes()), dtype=torch.uint8)
                picture = pixels.view(grid.height, grid.width, 3)
                logger.experiment.add_image("samples", picture, step, dataformats="HWC")


class Throughput(OptimizerStepCallback):
    """Logs images a second, epoch, learning rates and peak memory, without drawing's time.

    Args:
        images_per_step: Pictures of one optimizer step over all devices.
        num_pictures: Size of the set, for the epoch number.
        progress: The display; it gets the training bar.
        metrics: The run's ``metrics.jsonl``.
        log_every_n_steps: Optimizer steps between points of the curves.
    """

    def __init__(
        self,
        images_per_step: int,
        num_pictures: int,
        progress: Progress,
        metrics: Path,
        log_every_n_steps: int,
    ) -> None:
        self.images_per_step = images_per_step
        self.num_pictures = num_pictures
        self.progress = progress
        self.metrics = metrics
        self.log_every_n_steps = log_every_n_steps
        self._bar: TaskID | None = None
        self._note = ""
        self._began = 0.0
        self._busy_s = 0.0
        self._steps = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the bar at the step that the run is at."""
        self._bar = self.progress.add("Training", trainer.max_steps, trainer.global_step)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *batch: Any
    ) -> None:
        """The clock runs from here to the end of the batch, so drawing is not counted."""
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
        self._busy_s += time.perf_counter() - self._began
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Log where a curve point is due, and move the bar."""
        self._steps += 1
        assert self._bar is not None, "training has started"
        self.progress.update(self._bar, step, self._note)
        if not every(step, self.log_every_n_steps):
            return
        rate = self._steps * self.images_per_step / self._busy_s
        values = {
            "train/images_per_s": rate,
            "train/epoch": step * self.images_per_step / self.num_pictures,
            "train/peak_memory_mib": peak_memory_mib(module.device),
            **{
                f"train/lr_{group['name']}": float(group["lr"])
                for group in trainer.optimizers[0].param_groups
            },
        }
        loss = trainer.callback_metrics.get("train/loss")
        self._busy_s, self._steps = 0.0, 0
        for logger in trainer.loggers:
            logger.log_metrics(values, step)
        if loss is not None:
            values["train/loss"] = float(loss)
            self._note = f"loss {float(loss):.4f}, {rate:.1f} images/s"
        if trainer.is_global_zero:
            append_metrics(self.metrics, step, values)

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self.progress.remove(self._bar)


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
