"""The callback that draws and scores validation pictures, of the adapter and once of the base."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
from PIL import Image

from sdlora.evaluation.evaluated import Evaluation, short_scores
from sdlora.evaluation.evaluator import Evaluator
from sdlora.runs.best import BestAdapter
from sdlora.runs.metrics import MetricsFile, read_metrics
from sdlora.runs.samples import BASE, SAMPLES, step_name, write_grid, write_samples
from sdlora.runtime.places import from_here
from sdlora.sweep.pruning import Pruning
from sdlora.training.callbacks.averaging import Average
from sdlora.training.callbacks.every_n_steps import OptimizerStepCallback, every
from sdlora.training.callbacks.stopping import StopSignals
from sdlora.training.loggers import RunTensorBoard, RunWandb
from sdlora.training.module import DiffusionModule
from sdlora.training.validation_loss import ValidationLoss

HOPELESS = "other trials of the search had better scores by this step"


class Evaluate(OptimizerStepCallback):
    """Draws validation pictures and scores them while training, beside the base's.

    The base is drawn when its pictures are first needed, with the adapter switched off, so that
    training starts at once. If the base's own weights train, it is drawn before.

    Args:
        evaluator: Draws and scores.
        pictures_every_n_steps: Steps between picture grids; 0: only at the end.
        scores_every_n_steps: Steps between scores; 0: only at the end.
        folder: The run folder; ``samples/`` and ``metrics.jsonl`` are written in it.
        average: The average of the weights, which pictures show; ``None``: the weights.
        best: Keeps the best adapter; ``None``: none is kept.
        stop_patience: Scores without a better one after which the run stops; ``None``: never.
        pruning: Pruning of a search's trial; ``None``: none.
        base_first: Draw the base before training, since its own weights train.
        validation: Measures the validation loss; ``None``: nothing is held out.
        signals: Signals, which end a drawing at once; ``None``: they end nothing.

    Attributes:
        last: Pictures and scores of the last scored step.
        stop_reason: Why training stopped before its last step.
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
        pruning: Pruning | None = None,
        base_first: bool = False,
        validation: ValidationLoss | None = None,
        signals: StopSignals | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.pictures_every_n_steps = pictures_every_n_steps
        self.scores_every_n_steps = scores_every_n_steps
        self.folder = folder
        self.metrics = MetricsFile(folder, evaluator.progress)
        self.average = average
        self.best = best
        self.stop_patience = stop_patience
        self.pruning = pruning
        self.base_first = base_first
        self.validation = validation
        self.signals = signals or StopSignals()
        self.last: Evaluation | None = None
        self.stop_reason: str | None = None
        self._base_is_noted = False

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Draw a base that trains, before a checkpoint restores trained weights into it."""
        if self.base_first and trainer.is_global_zero:
            with self._if_memory_allows(0):
                self.evaluator.draw_base()

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write the validation loss before the first step, or draw what a resumed run lacks."""
        assert isinstance(pl_module, DiffusionModule)
        self._begin(trainer)
        self.catch_up(trainer, pl_module)

    def catch_up(self, trainer: lightning.Trainer, module: DiffusionModule) -> None:
        """Draw what is due at this step and not there: the run was stopped after its checkpoint.

        The grid of a step is the last file that is written of it.
        """
        step = trainer.global_step
        is_missing = step > 0 and not self._grid(step).is_file()
        if trainer.strategy.broadcast(is_missing):  # others may see another disk
            self.on_optimizer_step(trainer, module, step)

    def _begin(self, trainer: lightning.Trainer) -> None:
        if self.pruning is not None and self.pruning.was_stopped(trainer.global_step):
            self.stop_reason = HOPELESS
            trainer.should_stop = True  # every process reads the same study
        if self.validation is None or not trainer.is_global_zero or trainer.global_step > 0:
            return  # a resumed run has this line
        with self._tolerantly(0):
            self._note(trainer, 0, self.validation.compute())

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Draw pictures and scores where they are due; the last step always has both."""
        at_end = step == trainer.max_steps
        scored = at_end or every(step, self.scores_every_n_steps)
        if not scored and not every(step, self.pictures_every_n_steps):
            return
        if trainer.is_global_zero and self.signals.received is None:
            with self.signals.interruptible(), self._tolerantly(step):
                self._draw(trainer, module, step, scored)
        if self.signals.received is not None and trainer.world_size == 1:
            trainer.should_stop = True  # several processes agree in the next step
            return
        if scored:
            if trainer.is_global_zero and not at_end:
                self.stop_reason = self._reason_to_stop(step)
            is_over = self.stop_reason is not None
            if trainer.strategy.reduce_boolean_decision(is_over, all=False):  # every process asks
                trainer.should_stop = True

    def _reason_to_stop(self, step: int) -> str | None:
        scores = None if self.last is None else self.last.scores
        if scores and self.pruning is not None and self.pruning.is_hopeless(step, scores):
            return HOPELESS
        if self.stop_patience is not None and self._scores_since_best() >= self.stop_patience:
            return f"no better score in the last {self.stop_patience}"
        return None

    def _draw(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int, scored: bool
    ) -> None:
        if scored:
            self.last = None  # an older one is not what the run ends with, should memory run out
        base = self._base(trainer)
        parameters = module.all_trained_parameters()
        with self.average.applied(parameters) if self.average else nullcontext():
            evaluation = self.evaluator.draw(preview=not scored)
            validated = self._validated() if scored else {}
        is_best, grid, tolerating = False, None, self.evaluator.progress.tolerating
        with tolerating("files of the best step"):
            is_best = self._is_best(step, base, evaluation)
        values = {**evaluation.named("eval"), **validated} if scored else {}
        if scored and not self._has_line(step, values):
            self.metrics.append(step, values)
        with tolerating(f"{SAMPLES}/"):
            grid = self._write(step, base, evaluation, whole=is_best)
        if scored:
            self.last = evaluation
            # the base does not change: a flat line that the curves start from
            self._log(trainer, step, {**base.named("base"), **values}, grid)
        else:
            self._log(trainer, step, {}, grid)
        self._say(step, base, evaluation, is_best=is_best)

    def _say(self, step: int, base: Evaluation, evaluation: Evaluation, *, is_best: bool) -> None:
        """One line: the scores of the step beside the base's, and where its pictures are."""
        grid = self._grid(step)
        parts = list(short_scores(evaluation, base)) + [from_here(grid)] * grid.is_file()
        best = " (the best so far)" * is_best
        self.evaluator.progress.print(f"step {step}{best}: {', '.join(parts)}")

    def _grid(self, step: int) -> Path:
        return self.folder / SAMPLES / f"{step_name(step)}.png"

    def _has_line(self, step: int, values: Mapping[str, object]) -> bool:
        """Whether the run was stopped after it had written these numbers."""
        lines = [line for line in read_metrics(self.folder) if line["step"] == step]
        return any(set(values) <= set(line) for line in lines)

    def _is_best(self, step: int, base: Evaluation, evaluation: Evaluation) -> bool:
        """Keep the adapter if its scores are the best so far; of a preview there are none."""
        if self.best is None or base.scores is None or evaluation.scores is None:
            return False
        return self.best.consider(step, evaluation.scores, base.scores)

    def _write(
        self, step: int, base: Evaluation, evaluation: Evaluation, *, whole: bool
    ) -> Image.Image:
        """Base above adapter as one picture, and each picture of the preview, or all, by itself."""
        evaluator, state = self.evaluator, step_name(step)
        count = evaluator.sampling.num_preview
        most = None if whole else count
        write_samples(self.folder, state, evaluation, evaluator.prompts, most)
        rows = {"base": base, f"step {step}": evaluation}
        return write_grid(self._grid(step), rows, count, evaluator.training_images)

    def _base(self, trainer: lightning.Trainer) -> Evaluation:
        """The base's pictures and scores, drawn and written once."""
        base = self.evaluator.draw_base()
        if not self._base_is_noted:
            scores = base.named("base")
            known = {name for line in read_metrics(self.folder) for name in line}
            if not known.issuperset(scores):  # a resumed run may have it
                self._note(trainer, 0, scores)
            with self.evaluator.progress.tolerating(f"{SAMPLES}/"):
                write_samples(self.folder, BASE, base, self.evaluator.prompts)
            self._base_is_noted = True
        return base

    def _note(
        self, trainer: lightning.Trainer, step: int, values: Mapping[str, float | None | str]
    ) -> None:
        self.metrics.append(step, values)
        self._log(trainer, step, values)

    def _validated(self) -> dict[str, float]:
        return {} if self.validation is None else self.validation.compute()

    def _scores_since_best(self) -> int:
        """Number of scored steps since the best one, counted in the run's metrics."""
        assert self.best is not None, "the schema requires evaluation.select"
        chosen = 0 if self.best.best is None else self.best.best.step
        name = f"eval/{self.best.rule.score}"
        lines = read_metrics(self.folder)
        return len({line["step"] for line in lines if name in line and line["step"] > chosen})

    @contextmanager
    def _tolerantly(self, step: int) -> Iterator[None]:
        """Continue training, whatever fails in drawing and scoring."""
        with (
            self.evaluator.progress.tolerating("pictures and scores"),
            self._if_memory_allows(step),
        ):
            yield

    @contextmanager
    def _if_memory_allows(self, step: int) -> Iterator[None]:
        """Continue training if not even one picture at a time fits into memory."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.evaluator.progress.print(
                f"warning: step {step}: not enough memory to draw one picture during training; no "
                "pictures and scores of this step. Set trainer.gradient_checkpointing=true or a "
                "smaller data.batch_size, or score later with sdlora evaluate checkpoint=all"
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
            if grid is None:
                continue
            if isinstance(logger, RunTensorBoard):
                logger.tolerant(_log_picture, logger, step, grid)
            elif isinstance(logger, RunWandb):
                logger.log_grid(grid, step)


def _log_picture(logger: RunTensorBoard, step: int, grid: Image.Image) -> None:
    pixels = torch.frombuffer(bytearray(grid.tobytes()), dtype=torch.uint8)
    picture = pixels.view(grid.height, grid.width, 3)
    logger.experiment.add_image("samples", picture, step, dataformats="HWC")
