"""A training run: all that it is made of, ready for its first step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning

from sdlora.adapters.spec import LoraSpec
from sdlora.config.train import TrainConfig
from sdlora.data.batches.datamodule import CaptionDataModule
from sdlora.data.selection.picture_set import PictureSet
from sdlora.evaluation.evaluator import Evaluator
from sdlora.models.family import Family
from sdlora.runs.checkpoints import step_of
from sdlora.runs.report import REPORT
from sdlora.runtime.progress import Progress
from sdlora.training.callbacks.averaging import Average
from sdlora.training.module import DiffusionModule
from sdlora.training.validation_loss import ValidationLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """All of a run, whole when it is made.

    Attributes:
        config: What it was told.
        folder: Where it writes.
        progress: Shows how far it is.
        trainer: Lightning's, with the devices.
        checkpoint: The ``trainer.ckpt`` that it goes on from; ``None``: from step 0.
        hashes: SHA-256 of its pictures, base model and start of the adapters, by name.
        data: The pictures that are trained on.
        contact_sheets: Those pictures as the model sees them, as files.
        datamodule: Their batches.
        family: The model with its adapters.
        specs: The adapter of each part that has one.
        module: The model with its objective and optimizer.
        average: The average of the weights that pictures and files show; ``None``: none.
        evaluator: Draws and scores.
        validation: The loss on pictures held out; ``None`` without any.
    """

    config: TrainConfig
    folder: Path
    progress: Progress
    trainer: lightning.Trainer
    checkpoint: Path | None
    hashes: Mapping[str, str]
    data: PictureSet
    contact_sheets: Sequence[Path]
    datamodule: CaptionDataModule
    family: Family
    specs: Mapping[str, LoraSpec]
    module: DiffusionModule
    average: Average | None
    evaluator: Evaluator
    validation: ValidationLoss | None

    @property
    def first_step(self) -> int:
        """Optimizer steps that were done before."""
        return 0 if self.checkpoint is None else step_of(self.checkpoint)

    @property
    def has_adapter(self) -> bool:
        """Whether it trains an adapter or a new word, which the base is needed with."""
        return bool(self.specs) or self.config.lora.new_word.name is not None

    @property
    def is_finished(self) -> bool:
        """Whether the run that is resumed had come to its end, export and report included."""
        is_over = self.checkpoint is not None and self.first_step >= self.trainer.max_steps
        return is_over and (self.folder / REPORT).is_file()
