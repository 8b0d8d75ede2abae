"""A prepared training run, ready for its first step."""

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
from sdlora.runs.finished import is_finished
from sdlora.runs.run_folder import LORA
from sdlora.runtime.progress import Progress
from sdlora.training.callbacks.averaging import Average
from sdlora.training.module import DiffusionModule
from sdlora.training.step_cost import StepCost
from sdlora.training.validation_loss import ValidationLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """All parts of a run, complete at construction.

    Attributes:
        config: Its config.
        folder: The run folder.
        progress: Shows bars and messages.
        trainer: Lightning's trainer.
        checkpoint: The ``trainer.ckpt`` to resume from; ``None``: start at step 0.
        hashes: SHA-256 of its pictures, base model and start of the adapters, by name.
        data: The training pictures.
        contact_sheets: Files of the contact sheets.
        datamodule: Their batches.
        family: The model with its adapters.
        specs: The adapter of each part that has one.
        module: The model with its objective and optimizer.
        average: The average of the weights that pictures and files show; ``None``: none.
        evaluator: Draws and scores.
        validation: The validation loss; ``None`` without held-out pictures.
        cost: The estimated cost of a step; ``None``: not known.
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
    cost: StepCost | None

    @property
    def first_step(self) -> int:
        """Number of optimizer steps done before."""
        return 0 if self.checkpoint is None else step_of(self.checkpoint)

    @property
    def has_adapter(self) -> bool:
        """Whether it trains an adapter or a new word, which are used with the base."""
        return bool(self.specs) or self.config.lora.new_word.name is not None

    @property
    def is_finished(self) -> bool:
        """Whether the resumed run was finished, including export, report and page."""
        file = self.folder / LORA / f"{self.config.export.name}.safetensors"
        is_named = not self.specs or file.is_file()  # the name may have changed since
        return self.is_trained and is_named and is_finished(self.folder, self.first_step)

    @property
    def is_trained(self) -> bool:
        """Whether the resumed run had done its last step."""
        return self.checkpoint is not None and self.first_step >= self.trainer.max_steps
