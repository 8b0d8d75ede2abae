"""Validation pictures and scores, of the base at the start and of the adapter while training."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from sdlora.best import BestAdapter
from sdlora.callbacks.averaging import Average
from sdlora.callbacks.steps import OptimizerStepCallback, every
from sdlora.evaluator import Evaluation, Evaluator
from sdlora.metrics.scores import Scores
from sdlora.module import DiffusionModule
from sdlora.report import append_metrics, read_metrics
from sdlora.validation import ValidationLoss


class Evaluate(OptimizerStepCallback):
    """Draws validation pictures and scores them, at the start (the base) and while training.

    Args:
        evaluator: Draws and scores.
        pictures_every_n_steps: Steps between picture grids; 0: only at the end.
        scores_every_n_steps: Steps between scores; 0: only at the end.
        folder: The run folder; ``samples/`` and ``metrics.jsonl`` are written in it.
        average: If weights are averaged: pictures show the average.
        best: Keeps the best adapter; ``None``: none is kept.
        stop_patience: Scores without a better one after which the run stops; ``None``: never.
        is_hopeless: Step and its scores -> whether the run should stop, as others do better.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        pictures_every_n_steps: int,
        scores_every_n_steps: int,
        folder: Path,
        average: Average | None = None,
        best: BestAdapter | None = None,
        stop_patience: int | None = None,
        is_hopeless: Callable[[int, Scores], bool] | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.pictures_every_n_steps = pictures_every_n_steps
        self.scores_every_n_steps = scores_every_n_steps
        self.folder = folder
        self.average = average
        self.best = best
        self.stop_patience = stop_patience
        self.is_hopeless = is_hopeless
        self.stop_reason: str | None = None
        self.validation: ValidationLoss | None = None
        self.last: Evaluation | None = None

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Draw and score the bare base once, before a checkpoint puts trained weights into it."""
        if trainer.is_global_zero:
            with self._spared(0):
                self.evaluator.draw_base()

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write down the base's scores: the control row of everything that follows."""
        base = self.evaluator.base
        if not trainer.is_global_zero or base is None or trainer.global_step > 0:
            return  # a resumed run has this line
        with self._spared(0):
            values = {**base.named("base"), **self._validated()}
            append_metrics(self.folder / "metrics.jsonl", 0, values)
            self._log(trainer, 0, values)

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Pictures and scores where they are due; the last step always has both."""
        at_end = step == trainer.max_steps
        scored = at_end or every(step, self.scores_every_n_steps)
        if not scored and not every(step, self.pictures_every_n_steps):
            return
        if trainer.is_global_zero:
            with self._spared(step):
                self._draw(trainer, module, step, scored)
        if scored:
            if trainer.is_global_zero and not at_end:
                self.stop_reason = self._reason_to_stop(step)
            is_over = self.stop_reason is not None
            if trainer.strategy.reduce_boolean_decision(is_over, all=False):  # every process asks
                trainer.should_stop = True

    def _reason_to_stop(self, step: int) -> str | None:
        scores = None if self.last is None else self.last.scores
        if scores is not None and self.is_hopeless is not None and self.is_hopeless(step, scores):
            return "other trials of the search had better scores by then"
        if self.stop_patience is not None and self._scores_since_best() >= self.stop_patience:
            return f"no better score in the last {self.stop_patience}"
        return None

    def _draw(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int, scored: bool
    ) -> None:
        if scored:
            self.last = None  # an older one is not what the run ends with, should memory run out
        parameters = module.all_trained_parameters()
        with self.average.applied(parameters) if self.average else nullcontext():
            evaluation = self.evaluator.draw(preview=not scored)
            validated = self._validated() if scored else {}
        path = self.folder / "samples" / f"step_{step:07d}.png"
        grid = self.evaluator.write_grid(path, evaluation, f"step {step}")
        self.evaluator.write_preview(path.with_suffix(""), evaluation)
        if scored:
            self.last = evaluation
            values = {**evaluation.named("eval"), **validated}
            append_metrics(self.folder / "metrics.jsonl", step, values)
            base = self.evaluator.draw_base()
            if self.best is not None and base.scores and evaluation.scores:
                self.best.consider(step, evaluation.scores, base.scores)
            # the base does not change: a flat line that the curves start from
            self._log(trainer, step, {**base.named("base"), **values}, grid)
        else:
            self._log(trainer, step, {}, grid)

    def _validated(self) -> dict[str, float]:
        return {} if self.validation is None else self.validation.compute()

    def _scores_since_best(self) -> int:
        """How often later steps were scored; counted in the file, which a resumed run has too."""
        assert self.best is not None, "the schema requires evaluation.select"
        chosen = 0 if self.best.best is None else self.best.best.step
        name = f"eval/{self.best.rule.score}"
        lines = read_metrics(self.folder / "metrics.jsonl")
        return len({line["step"] for line in lines if name in line and line["step"] > chosen})

    @contextmanager
    def _spared(self, step: int) -> Iterator[None]:
        """Training goes on where not even one picture at a time fits into the memory beside it."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.evaluator.progress.print(
                f"warning: step {step}: no memory to draw even one picture beside the training; no "
                "pictures and scores of this step. Set trainer.gradient_checkpointing=true or a "
                "smaller data.batch_size, or score later with evaluate.py checkpoint=all"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _log(
        self,
        trainer: lightning.Trainer,
        step: int,
        scores: Mapping[str, float | None | str],
        grid: Any = None,
    ) -> None:
        numbers = {name: value for name, value in scores.items() if isinstance(value, float | int)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step)
            if isinstance(logger, TensorBoardLogger):
                _log_pictures(logger, step, numbers, grid)


def _log_pictures(
    logger: TensorBoardLogger, step: int, numbers: Mapping[str, float | int], grid: Any
) -> None:
    """The grid, and under Custom Scalars each score in one chart with the base's."""
    if grid is not None:
        pixels = torch.frombuffer(bytearray(grid.tobytes()), dtype=torch.uint8)
        picture = pixels.view(grid.height, grid.width, 3)
        logger.experiment.add_image("samples", picture, step, dataformats="HWC")
    if step == 0:
        names = [name.removeprefix("base/") for name in numbers if name.startswith("base/")]
        shown = [name for name in names if not name.endswith(("_low", "_high"))]
        charts = {name: ["Multiline", [f"eval/{name}", f"base/{name}"]] for name in shown}
        logger.experiment.add_custom_scalars({"scores": charts})
