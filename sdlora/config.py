"""The typed schema of every config group; values live in ``conf/``, checks live here."""

import difflib
import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from omegaconf import MISSING

from sdlora.config_data import DataConfig
from sdlora.config_evaluation import EvaluationConfig
from sdlora.config_lora import FROM_BASE, LoraConfig
from sdlora.config_model import PRECISIONS, ModelConfig
from sdlora.config_objective import ObjectiveConfig
from sdlora.config_rules import (
    require,
    require_choice,
    require_count,
)
from sdlora.config_sweep import SweepConfig
from sdlora.config_training import OptimConfig, SchedulerConfig, TrainerConfig


@dataclass(slots=True, kw_only=True)
class SamplingConfig:
    prompts: str | None = MISSING
    """Text file with one prompt a line; blank lines are left out. ``null`` for a model that is told
    nothing: each seed is a picture."""
    num_prompts: int | None = None
    """Use only the first so many prompts; ``null``: all."""
    prompt_prefix: str = MISSING
    """Put in front of every prompt, such as a trigger word with a comma and a space."""
    negative_prompt: str = MISSING
    """What the pictures should not show."""
    sampler: str = MISSING
    """ddim, ddpm, dpm++, dpm++_karras, euler, euler_a, heun, unipc, ..."""
    num_steps: int = MISSING
    """Denoising steps a picture; >= 1."""
    guidance_scale: float = MISSING
    """Classifier-free guidance; 1 is off."""
    seeds: list[int] = field(default_factory=list)
    """Every prompt is drawn once with each seed."""
    num_seeds: int | None = None
    """Draw with so many seeds: ``sampling.seeds``, then the whole numbers after the largest of
    them; ``null``: ``sampling.seeds``."""
    batch_size: int = MISSING
    """Pictures drawn at once; >= 1."""
    every_n_steps: int = MISSING
    """Optimizer steps between validation pictures; 0: only at the end."""
    num_preview: int = MISSING
    """How many of the prompts the validation pictures during training show; >= 1."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "num_preview"):
            require_count(f"sampling.{name}", getattr(self, name))
        require_count("sampling.every_n_steps", self.every_n_steps, 0)
        if self.num_prompts is not None:
            require_count("sampling.num_prompts", self.num_prompts)
            require(
                self.prompts is not None,
                "sampling.num_prompts",
                self.num_prompts,
                "there are no prompts (sampling.prompts=null); set it to null, and "
                "sampling.num_seeds to the number of pictures",
            )
        if self.num_seeds is not None:
            require_count("sampling.num_seeds", self.num_seeds)
        require(bool(self.seeds), "sampling.seeds", self.seeds, "give at least one seed")
        require(
            math.isfinite(self.guidance_scale) and self.guidance_scale >= 0,
            "sampling.guidance_scale",
            self.guidance_scale,
            "must be a finite number >= 0",
        )


@dataclass(slots=True, kw_only=True)
class CheckpointConfig:
    every_n_steps: int = MISSING
    """Optimizer steps between checkpoints; 0: only the last."""
    keep_last: int | None = None
    """How many checkpoints stay on disk; ``null``: all."""

    def __post_init__(self) -> None:
        require_count("checkpoint.every_n_steps", self.every_n_steps, 0)
        if self.keep_last is not None:
            require_count("checkpoint.keep_last", self.keep_last)


@dataclass(slots=True, kw_only=True)
class LoggerConfig:
    names: list[str] = field(default_factory=list)
    """Where curves go: any of ``tensorboard``, ``csv``."""

    def __post_init__(self) -> None:
        for name in self.names:
            require_choice("logger.names", name, ("tensorboard", "csv"))


@dataclass(slots=True, kw_only=True)
class ExportConfig:
    name: str = MISSING
    """Title of the LoRA, and name of the file for ComfyUI / A1111."""
    licence: str | None = None
    """Licence of the LoRA, for its model card and header, as the Hugging Face Hub names them, such
    as ``apache-2.0`` or ``creativeml-openrail-m``; ``null``: not chosen (``unknown``)."""

    def __post_init__(self) -> None:
        allowed = all(letter.isalnum() or letter in "-_. " for letter in self.name)
        require(
            bool(self.name.strip(" .")) and allowed and len(self.name) <= 100,
            "export.name",
            self.name,
            "becomes a file name: 1 to 100 letters, digits, spaces, '-', '_' or '.'",
        )


@dataclass(slots=True, kw_only=True)
class TrainConfig:
    """Everything that ``train.py`` is told."""

    seed: int = MISSING
    """Seed of everything random; 0 is a seed."""
    resume: str | None = None
    """Run folder to go on with."""
    from_lora: str | None = None
    """LoRA file of this project whose run is repeated: its header holds the config, over which
    other overrides win."""
    check: bool = MISSING
    """Only check the data: decode every picture, write the data sheet, and stop."""
    run_dir: str = MISSING
    """Where this run writes; set by Hydra, change it with ``hydra.run.dir``."""
    model: ModelConfig = MISSING
    lora: LoraConfig = MISSING
    data: DataConfig = MISSING
    objective: ObjectiveConfig = MISSING
    optim: OptimConfig = MISSING
    scheduler: SchedulerConfig = MISSING
    trainer: TrainerConfig = MISSING
    sampling: SamplingConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    checkpoint: CheckpointConfig = MISSING
    logger: LoggerConfig = MISSING
    export: ExportConfig = MISSING
    sweep: SweepConfig = MISSING

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be a whole number in [0, 2**63)")
        for part in self.model.scratch:
            method = getattr(self.lora, part).method
            require(
                method == "full",
                "model.scratch",
                part,
                f"random weights must all train; set lora.{part}.method=full",
            )
        parts = ("unet", "text_encoder", "text_encoder_2")
        methods = {part: getattr(self.lora, part).method for part in parts}
        for part, method in methods.items():
            key = f"{part.removesuffix('_2')}_lr"
            rate, eta_min = getattr(self.optim, key), self.scheduler.eta_min
            require(
                method == "frozen" or eta_min is None or eta_min <= rate,
                "scheduler.eta_min",
                eta_min,
                f"is above optim.{key}={rate}, from which the rate comes down to it; lower it",
            )
        needs_weights = methods["unet"] == "full" or self.lora.init in FROM_BASE
        require(
            self.model.quantise is None or not needs_weights,
            "model.quantise",
            self.model.quantise,
            "rounded weights can neither train (lora.unet.method=full) nor be what an adapter "
            "starts from (lora.init=pissa or olora); set it to null",
        )
        is_streamed = self.data.source == "hub" and self.data.hub.streaming
        require(
            not (self.scheduler.per == "epoch" and is_streamed),
            "scheduler.per",
            "epoch",
            "a streamed set has no epochs of whole batches; use step",
        )
        require(
            self.optim.lora_plus_ratio is None or "lora" in methods.values(),
            "optim.lora_plus_ratio",
            self.optim.lora_plus_ratio,
            "needs an adapter; set it to null where all weights train",
        )
        require(
            not (self.optim.options.get("fused") and self.trainer.precision == "fp16"),
            "optim.options.fused",
            True,
            "takes the loss scale of fp16 out of the gradients after they are clipped; set it to "
            "false, or use trainer.precision=bf16",
        )


@dataclass(slots=True, kw_only=True)
class EvaluatedData:
    root: str | None = None
    """Folder of the pictures that the LoRA was trained on, if they are there: scores compare with
    them, and with its folder ``held_out`` if it has one."""


@dataclass(slots=True, kw_only=True)
class EvaluateConfig:
    """Everything that ``evaluate.py`` is told."""

    run: str | None = None
    """Run folder whose LoRA is scored; it gives the model, the references and the training set."""
    sweep_folder: str | None = None
    """Folder of a sweep whose ``report.html`` and ``results.csv`` are written again; nothing is
    drawn or scored. On the command line: ``sweep=FOLDER``."""
    run_checkpoint: str = MISSING
    """Which adapter of the run: ``last``, ``best`` (by its own scores), a step number, or ``all``
    that are on the disk. On the command line it is ``checkpoint=STEP``."""
    lora_file: list[str] = field(default_factory=list)
    """LoRA files or folders, made by any trainer; scored on ``model``. On the command line:
    ``lora=FILE`` or ``lora=[FILE,FILE]``."""
    lora_scale: list[float] = field(default_factory=list)
    """Strengths of the LoRA, each scored; 1 is as trained. On the command line:
    ``lora_scale=0.8`` or ``lora_scale=0.6,0.8,1.0``."""
    images: list[str] = field(default_factory=list)
    """Folders of pictures made elsewhere, to be scored as they are; prompts are read from their
    ``prompts.json``, or text files beside the pictures. On the command line: ``images=FOLDER``."""
    merge: bool = MISSING
    """Add the LoRA into the weights before drawing, as an exported model would have it."""
    run_dir: str = MISSING
    """Where the pictures and the report go."""
    precision: str = MISSING
    """fp32, bf16 or fp16."""
    accelerator: str = MISSING
    """``auto``, ``cpu``, ``gpu`` or ``mps``."""
    resolution: int | None = None
    """Side of the pictures in pixels; ``null``: the model's own."""
    model: ModelConfig = MISSING
    data: EvaluatedData = MISSING
    sampling: SamplingConfig = MISSING
    evaluation: EvaluationConfig = MISSING

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, PRECISIONS)
        require_choice("accelerator", self.accelerator, ("auto", "cpu", "gpu", "mps"))
        if self.resolution is not None:
            require_count("resolution", self.resolution, 8)
        given = [bool(self.lora_file), bool(self.images)]
        if self.sweep_folder is not None:
            others = {"run": self.run, "lora": self.lora_file, "images": self.images}
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
        require(
            self.run is None or self.data.root is None,
            "data.root",
            self.data.root,
            "a run knows its own training pictures; leave it out",
        )


def all_keys(schema: Any, prefix: str = "") -> dict[str, str]:
    """Every dotted key of a schema with its type's name, groups included."""
    hints = get_type_hints(schema)
    keys: dict[str, str] = {}
    for item in fields(schema):
        kind = hints[item.name]
        keys[prefix + item.name] = getattr(kind, "__name__", str(kind))
        if isinstance(kind, type) and is_dataclass(kind):
            keys |= all_keys(kind, f"{prefix}{item.name}.")
    return keys


def nearest_key(key: str, schema: Any) -> str | None:
    """The known key most like ``key``, or ``None`` if none is like it."""
    known = list(all_keys(schema))
    leaf = key.rpartition(".")[2]
    same_group = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
    for candidates, wanted in ((same_group, key), (known, key)):
        near = difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.7)
        if near:
            return near[0]
    near = [name for name in known if name.rpartition(".")[2] == leaf]
    return near[0] if near else None
