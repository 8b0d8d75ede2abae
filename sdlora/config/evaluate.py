"""The typed schema of ``evaluate.py``: what is scored, how, and on which machine."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from sdlora.config.effect import absent, given, where
from sdlora.config.evaluation import EvaluationConfig
from sdlora.config.model import AUTO, PRECISIONS, ModelConfig
from sdlora.config.rules import (
    require,
    require_choice,
    require_count,
)
from sdlora.config.sampling import SamplingConfig

SCORES = absent("sweep")
"""Something is scored; ``sweep=`` only writes pages again."""

DRAWS = absent("images")
"""Pictures are drawn."""


@dataclass(slots=True, kw_only=True)
class EvaluatedData:
    """The training pictures that a LoRA's pictures are compared with."""

    root: str | None = None
    """Folder of the pictures that the LoRA was trained on, if they are there: scores compare with
    them, and with its folder ``held_out`` if it has one."""
    trigger_word: str | None = None
    """The word that calls the subject, such as ``sks``, for ``sampling.trigger_word`` and
    ``evaluation.trigger_word``."""
    class_word: str | None = None
    """What the subject is, such as ``man``, for ``evaluation.class_word``."""


@dataclass(slots=True, kw_only=True)
class EvaluateConfig:
    """The whole config of ``evaluate.py``."""

    GROUPS: ClassVar[tuple[str, ...]] = ("model", "sampling", "evaluation")
    """Config groups with options; other keys are plain values."""
    REFUSED: ClassVar[tuple[str, ...]] = ("model/ddpm", "sampling/unconditional")
    """Options of these groups that are refused: those of unconditional models."""

    run: str | None = None
    """Run folder whose LoRA is scored; it gives the model, the references and the training set."""
    sweep: str | None = None
    """Folder of a sweep whose ``report.html`` and ``results.csv`` are written again; nothing is
    drawn or scored."""
    checkpoint: str = field(default=MISSING, metadata=where(SCORES, DRAWS, given("run")))
    """Which adapter of the run: ``chosen``, that of its ``lora/`` (by its own scores; the last step
    where none was), ``best`` (the same, and an error where none was chosen), ``last``, a step
    number, or ``all`` that are on the disk."""
    lora: list[str] = field(default_factory=list)
    """LoRA files or folders, made by any trainer; scored on ``model``. One may be given without
    brackets: ``lora=FILE``."""
    lora_scale: list[float] = field(default_factory=list, metadata=where(SCORES, DRAWS))
    """Strengths of the LoRA, each scored; 1 is as trained. ``lora_scale=0.6,0.8,1.0`` shares one
    load."""
    lora_skip_unknown: bool = field(default=MISSING, metadata=where(SCORES, DRAWS))
    """Leave out what a LoRA file holds that is of no adapter, and list it, instead of stopping."""
    images: list[str] = field(default_factory=list)
    """Folders of pictures of other programs to score; prompts are read from their
    ``prompts.json``, or text files beside the pictures."""
    merge: bool = field(default=MISSING, metadata=where(SCORES, DRAWS))
    """Merge the LoRA into the weights before drawing, as in an exported model."""
    run_dir: str = MISSING
    """Folder of the pictures and the report."""
    precision: str = field(default=MISSING, metadata=where(SCORES, DRAWS))
    """Compute precision: fp32, bf16, fp16, or auto, as ``trainer.precision``."""
    accelerator: str = field(default=MISSING, metadata=where(SCORES))
    """``auto``, ``cpu``, ``gpu`` or ``mps``."""
    resolution: int | None = field(default=None, metadata=where(SCORES, DRAWS))
    """Side of the pictures in pixels; ``null``: the model's own."""
    model: ModelConfig = field(default=MISSING, metadata=where(SCORES))
    data: EvaluatedData = field(default=MISSING, metadata=where(SCORES))
    sampling: SamplingConfig = field(default=MISSING, metadata=where(SCORES))
    evaluation: EvaluationConfig = field(default=MISSING, metadata=where(SCORES))

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, (*PRECISIONS, AUTO))
        require_choice("accelerator", self.accelerator, ("auto", "cpu", "gpu", "mps"))
        if self.resolution is not None:
            require_count("resolution", self.resolution, 8)
        given = [bool(self.lora), bool(self.images)]
        if self.sweep is not None:
            others = {"run": self.run, "lora": self.lora, "images": self.images}
            for key, value in others.items():
                require(not value, key, value, "has a report of its own; give it without sweep=")
            return
        require(
            any(given) != (self.run is not None) or given == [False, True],
            "run",
            self.run,
            "give either run=RUN_FOLDER, lora=FILE or images=FOLDER (images may come with a run), "
            "or sweep=FOLDER",
        )
        require(not all(given), "images", self.images, "is scored by itself, without lora=")
        require(
            bool(self.lora_scale) and all(math.isfinite(scale) for scale in self.lora_scale),
            "lora_scale",
            self.lora_scale,
            "must be finite numbers, at least one",
        )
        brought = {
            "root": "training pictures; leave it out",
            "trigger_word": "words; leave it out, or set evaluation.trigger_word",
            "class_word": "words; leave it out, or set evaluation.class_word",
        }
        for key, own in brought.items():
            value = getattr(self.data, key)
            message = f"a run brings its own {own}"
            require(self.run is None or value is None, f"data.{key}", value, message)
