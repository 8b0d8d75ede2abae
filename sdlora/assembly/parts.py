"""Typed config -> single objects: data, model, adapters, module, trainer, scorer."""

import logging
import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from sdlora import __version__
from sdlora.adapters.lora import add_lora
from sdlora.adapters.spec import LoraSpec
from sdlora.assembly.checks import prior_prompts, prompts
from sdlora.assembly.objective import objective
from sdlora.assembly.optimizer import optimizer, schedule
from sdlora.callbacks.averaging import Average, ExponentialMovingAverage, ScheduleFreeAverage
from sdlora.checkpoint import WholeCheckpointIO
from sdlora.config import SamplingConfig, TrainConfig
from sdlora.config_evaluation import EvaluationConfig
from sdlora.config_lora import LoraConfig, LoraPartConfig
from sdlora.config_model import ModelConfig
from sdlora.config_rules import require
from sdlora.evaluator import DrawSettings
from sdlora.models.family import Family
from sdlora.models.layouts import layout_of
from sdlora.models.loading import families
from sdlora.models.quantising import quantise
from sdlora.models.source import ModelSource
from sdlora.module import DiffusionModule, Teacher
from sdlora.optim import averages_itself, choice, optimizer_factory
from sdlora.randomness import derive_seed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LIGHTNING_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def device(accelerator: str) -> torch.device:
    """The torch device that Lightning would choose."""
    has_mps = MPSAccelerator.is_available()
    if accelerator == "auto":
        accelerator = "gpu" if has_mps or torch.cuda.is_available() else "cpu"
    gpu = "mps" if has_mps else "cuda"
    return torch.device({"gpu": gpu, "cpu": "cpu", "mps": "mps"}[accelerator])


def model_source(config: ModelConfig) -> ModelSource:
    """Where the base lies, for what reads no weight.

    Raises:
        ConfigError: If the family cannot do without a folder and there is none.
    """
    blank = layout_of(config.family).blank
    path = blank if config.path is None else config.path
    require(
        path is not None,
        "model.path",
        "null",
        f"model.family={config.family} needs a folder or a Hub id",
    )
    is_new = config.path is None
    return ModelSource(
        path=str(path),
        family=config.family,
        config=config.config,
        revision=config.revision,
        variant=config.variant,
        scratch=("unet",) if is_new else tuple(config.scratch),
        vae=config.vae,
        architecture=dict(config.architecture) if is_new else {},
    )


def check_family(config: ModelConfig) -> None:
    """Fail, before any weight is read, on an unknown family or what the family cannot do.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    choice("model.family", config.family, list(families()))
    layout = layout_of(config.family)
    require(
        layout.is_clip or config.clip_skip == 0,
        "model.clip_skip",
        config.clip_skip,
        f"{layout.kind} has no CLIP to leave layers out of; set it to 0",
    )
    require(
        config.quantise is None or find_spec("bitsandbytes") is not None,
        "model.quantise",
        config.quantise,
        "needs a package that is not installed; pip install bitsandbytes, or set it to null",
    )


def check_training(config: TrainConfig) -> None:
    """Fail, before any weight is read, on training that the model's family or device cannot do.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    check_family(config.model)
    require(
        not config.trainer.compile or device(config.trainer.accelerator).type != "cpu",
        "trainer.compile",
        config.trainer.compile,
        "torch 2.13 compiles wrong gradients on a CPU, by some percent where a batch is one "
        "picture; set it to false, or train on a GPU",
    )
    layout = layout_of(config.model.family)
    method, max_chunks = config.lora.text_encoder.method, config.data.captions.max_chunks
    require(
        method == "frozen" or layout.trainable != ("unet",),
        "lora.text_encoder.method",
        method,
        f"the text encoder of {layout.kind} cannot be trained; set lora.text_encoder.method=frozen",
    )
    require(
        layout.is_clip or max_chunks == 1,
        "data.captions.max_chunks",
        max_chunks,
        f"{layout.kind} reads captions in one piece of {layout.max_tokens} tokens; set it to 1",
    )


def model(config: ModelConfig, lora: LoraConfig | None, precision: str, seed: int) -> Family:
    """Load the base; its frozen weights are kept once, in the compute precision."""
    names = layout_of(config.family).trainable
    trained = tuple(part for part in names if lora and part_config(lora, part).method == "full")
    source = replace(
        model_source(config),
        frozen_dtype=DTYPES[precision],
        trained=trained,
        clip_skip=config.clip_skip,
        vae_dtype=None if config.vae_precision is None else DTYPES[config.vae_precision],
    )
    check_family(config)
    family = families()[config.family](source, derive_seed(seed, "init"))
    for part in trained:
        family.parts[part].requires_grad_(True)
    if config.quantise is not None:
        quantise(family.unet, config.quantise)
    return family


def part_config(config: LoraConfig, part: str) -> LoraPartConfig:
    """How a part is trained."""
    found: LoraPartConfig = getattr(config, part)
    return found


def methods(config: TrainConfig) -> set[str]:
    """How the model's parts are trained: ``frozen``, ``lora``, ``full``."""
    names = layout_of(config.model.family).trainable
    return {part_config(config.lora, part).method for part in names}


def trains_text(config: TrainConfig) -> bool:
    """Whether a text encoder of the model trains, or learns a word."""
    encoders = [part for part in layout_of(config.model.family).trainable if part != "unet"]
    methods = {part_config(config.lora, part).method for part in encoders}
    return bool(methods - {"frozen"}) or config.lora.new_word.name is not None


def lora_specs(config: LoraConfig, family: str) -> dict[str, LoraSpec]:
    """The adapter of each part that gets one."""
    specs = {}
    for part in layout_of(family).trainable:
        own = part_config(config, part)
        if own.method == "lora":
            specs[part] = LoraSpec(
                r=own.r or config.r,
                alpha=own.alpha or config.alpha,
                dropout=config.dropout,
                targets=tuple(own.targets),
                init=config.init,
                use_dora=config.use_dora and part == "unet",
                use_rslora=config.use_rslora,
                rank_pattern=own.rank_pattern,
                alpha_pattern=own.alpha_pattern,
                rank_dropout=config.rank_dropout,
            )
    return specs


def add_adapters(family: Family, specs: Mapping[str, LoraSpec], seed: int) -> None:
    """Put the adapters on the model's parts, in place."""
    for part, spec in specs.items():
        add_lora(family.parts[part], spec, derive_seed(seed, f"lora/{part}"))


def trainer(config: TrainConfig, folder: Path) -> lightning.Trainer:
    """Lightning's trainer, with its own checkpoints, bar and summary off: the callbacks do that."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    trainer = config.trainer
    return lightning.Trainer(
        max_steps=trainer.max_steps,
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=_strategy(config),
        precision=LIGHTNING_PRECISION[trainer.precision],
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_val=trainer.gradient_clip_val,
        log_every_n_steps=trainer.log_every_n_steps,
        logger=[_logger(name, folder) for name in config.logger.names],
        plugins=[WholeCheckpointIO()],
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )


def _strategy(config: TrainConfig) -> DDPStrategy | Literal["auto"]:
    """Several devices average their gradients, each in a process of its own."""
    if config.trainer.devices * config.trainer.num_nodes == 1:
        return "auto"
    # prompts read from before a text encoder's last layers leave those without a gradient
    skips_layers = config.model.clip_skip > 0 or config.model.family == "sdxl"
    return DDPStrategy(
        timeout=timedelta(minutes=config.trainer.timeout_min),
        gradient_as_bucket_view=True,
        find_unused_parameters=trains_text(config) and skips_layers,
    )


def _logger(name: str, folder: Path) -> Logger:
    if name == "csv":
        return CSVLogger(folder, name="csv", version="")
    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)


def average(config: TrainConfig) -> Average | None:
    """The average of the weights that pictures and files show; ``None``: the weights themselves."""
    if config.trainer.ema_decay is not None:
        return ExponentialMovingAverage(config.trainer.ema_decay)
    if averages_itself(optimizer_factory(config.optim.name)):
        return ScheduleFreeAverage()
    return None


def module(config: TrainConfig, family: Family, batches_per_epoch: int | None) -> DiffusionModule:
    """The LightningModule with its objective, optimizer and learning-rate schedule."""
    prior = config.data.prior
    teacher = None
    if prior.mode == "teacher":
        teacher = Teacher(family.tokenize([prior.prompt]).ids, prior.weight)
    return DiffusionModule(
        family,
        objective(config.objective, family),
        make_optimizer=lambda named: optimizer(config, named),
        make_schedule=lambda of: schedule(config, of, batches_per_epoch),
        seed=config.seed,
        check_every_n_steps=config.trainer.log_every_n_steps,
        teacher=teacher,
    )


def draw_settings(
    config: SamplingConfig, evaluation: EvaluationConfig, resolution: int, precision: str
) -> DrawSettings:
    """How validation pictures are drawn."""
    return DrawSettings(
        prompts=prompts(config),
        num_preview=config.num_preview,
        negative_prompt=config.negative_prompt,
        sampler=config.sampler,
        num_steps=config.num_steps,
        guidance_scale=config.guidance_scale,
        resolution=resolution,
        batch_size=config.batch_size,
        precision=DTYPES[precision],
        prior_prompts=prior_prompts(config, evaluation),
    )


def versions() -> dict[str, str]:
    """Of what made the numbers."""
    names = ("torch", "lightning", "diffusers", "transformers", "peft", "torchmetrics", "deepface")
    known = {name: version(name) for name in names}
    return {"sdlora": __version__, "python": platform.python_version()} | known
