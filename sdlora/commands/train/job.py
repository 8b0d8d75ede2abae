"""Everything of one training run, in one place."""

from dataclasses import dataclass, field
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
from sdlora.training.callbacks.drawing import Evaluate
from sdlora.training.callbacks.stopping import StopSignals
from sdlora.training.module import DiffusionModule


@dataclass(slots=True)
class TrainingJob:
    """Everything of one run, ready to fit."""

    config: TrainConfig
    folder: Path
    progress: Progress
    data: PictureSet
    contact_sheets: list[Path]
    family: Family
    module: DiffusionModule
    datamodule: CaptionDataModule
    trainer: lightning.Trainer
    evaluator: Evaluator
    evaluate: Evaluate
    signals: StopSignals
    average: Average | None
    specs: dict[str, LoraSpec]
    hashes: dict[str, str]
    checkpoint: Path | None
    proof: dict[str, float] = field(default_factory=dict)

    @property
    def has_adapter(self) -> bool:
        """Whether it trains an adapter or a new word, which the base is needed with."""
        return bool(self.specs) or self.config.lora.new_word.name is not None

    @property
    def is_finished(self) -> bool:
        """Whether the run that is resumed had come to its end, export and report included."""
        done = self.checkpoint is not None and step_of(self.checkpoint) >= self.trainer.max_steps
        return done and (self.folder / REPORT).is_file()
