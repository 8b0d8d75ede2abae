"""Typed config -> single objects: data, model, adapters, module, trainer, scorer."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from sdlora.adapters.lora import LoraSpec, add_lora
from sdlora.build.checks import prompts
from sdlora.checkpoint import WholeCheckpointIO
from sdlora.config import (
    ConfigError,
    DataConfig,
    LoraConfig,
    ModelConfig,
    SamplingConfig,
    TrainConfig,
    TrainerConfig,
)
from sdlora.data.cache import LatentCache
from sdlora.data.captions import cut_report
from sdlora.data.dataset import PictureDataset
from sdlora.data.sources import FolderSource, PictureSource, PortraitSource
from sdlora.diffusion.noise_schedule import NoiseSchedule
from sdlora.diffusion.objective import Objective
from sdlora.evaluator import DrawSettings
from sdlora.models.loading import ModelSource, families, fingerprint, resolve
from sdlora.models.sd import StableDiffusion
from sdlora.module import DiffusionModule
from sdlora.optim import (
    build_optimizer,
    build_schedule,
    choice,
    parameter_groups,
)
from sdlora.progress import Progress
from sdlora.randomness import derive_seed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LIGHTNING_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
PARTS = ("unet", "text_encoder")


def device(accelerator: str) -> torch.device:
    """The torch device that Lightning would choose."""
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    return torch.device({"gpu": "cuda", "cpu": "cpu", "mps": "mps"}[accelerator])


def check_family(config: ModelConfig) -> None:
    """Fail on an unknown model family before any weight is read."""
    choice("model.family", config.family, list(families()))


def model(
    config: ModelConfig, lora: LoraConfig | None, precision: str, seed: int
) -> StableDiffusion:
    """Load the base; its frozen weights are kept once, in the compute precision."""
    trained = tuple(p for p in PARTS if lora and getattr(lora, p).method == "full")
    source = ModelSource(
        path=config.path,
        revision=config.revision,
        variant=config.variant,
        frozen_dtype=DTYPES[precision],
        trained=trained,
        scratch=tuple(config.scratch),
        clip_skip=config.clip_skip,
    )
    check_family(config)
    family = families()[config.family](source, derive_seed(seed, "init"))
    for part in trained:
        getattr(family, part).requires_grad_(True)
    return family


def lora_specs(config: LoraConfig) -> dict[str, LoraSpec]:
    """The adapter of each part that gets one."""
    specs = {}
    for part in PARTS:
        own = getattr(config, part)
        if own.method == "lora":
            specs[part] = LoraSpec(
                r=own.r or config.r,
                alpha=own.alpha or config.alpha,
                dropout=config.dropout,
                targets=tuple(own.targets),
                init=config.init,
                use_dora=config.use_dora and part == "unet",
                use_rslora=config.use_rslora,
            )
    return specs


def add_adapters(family: StableDiffusion, specs: Mapping[str, LoraSpec], seed: int) -> None:
    """Put the adapters on the model's parts, in place."""
    for part, spec in specs.items():
        add_lora(getattr(family, part), spec, derive_seed(seed, f"lora/{part}"))


def source(config: DataConfig) -> PictureSource:
    """The captioned pictures; a folder is checked whole, here."""
    if config.source == "portraits":
        return PortraitSource(config.num_pictures, size=config.resolution)
    assert config.root is not None, "the schema requires it"
    return FolderSource(config.root, caption_suffix=config.caption_suffix, on_error=config.on_error)


def say_findings(source: PictureSource, progress: Progress) -> None:
    """Print what was left out and what lies unread in the folder."""
    for line in source.left_out:
        progress.print(f"left out: {line}")
    for line in source.notes:
        progress.print(f"note: {line}")
    progress.print(f"{len(source.samples)} pictures with captions")


def check_resolution(resolution: int, family: StableDiffusion) -> None:
    """Fail if the UNet cannot halve the latents as often as it needs to."""
    step = family.resolution_step
    if resolution % step:
        below = max(step, resolution // step * step)
        raise ConfigError(
            f"data.resolution={resolution}: this model needs a multiple of {step}; the nearest are "
            f"{below} and {below + step}"
        )


def base_hashes(config: ModelConfig) -> dict[str, str]:
    """SHA-256 of the base's weight files: what a LoRA and a checkpoint belong to."""
    folder = resolve(ModelSource(path=config.path, revision=config.revision))
    kept = tuple(part for part in ("vae", *PARTS) if part not in config.scratch)
    return fingerprint(folder, kept)


def memory_and_speed(config: TrainerConfig, family: StableDiffusion) -> None:
    """Gradient checkpointing, compilation and memory layout, as the config says."""
    if config.gradient_checkpointing:
        family.unet.enable_gradient_checkpointing()
        # not re-entrant: that form freezes a text encoder whose inputs need no gradient
        family.text_encoder.activation_checkpointing_enable({"use_reentrant": False})
    if config.compile:
        family.unet.compile()
    for part in (family.vae, family.unet):  # convolutions are faster so, on CPUs and GPUs
        part.to(memory_format=torch.channels_last)


def trainer(config: TrainConfig, folder: Path) -> lightning.Trainer:
    """Lightning's trainer, with its own checkpoints, bar and summary off: the callbacks do that."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = config.trainer
    return lightning.Trainer(
        max_steps=trainer.max_steps,
        accelerator=trainer.accelerator,
        devices=trainer.devices,
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


def _logger(name: str, folder: Path) -> Logger:
    if name == "csv":
        return CSVLogger(folder, name="csv", version="")
    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)


def dataset(
    config: TrainConfig,
    source: PictureSource,
    family: StableDiffusion,
    device: torch.device,
    progress: Progress,
) -> PictureDataset:
    """The training samples, encoded once unless ``data.cache=off``; says what captions lose."""
    data = config.data
    tokens = family.tokenize([sample.caption for sample in source.samples])
    for line in cut_report(source.samples, tokens.cut):
        progress.print(f"caption cut: {line}")
    dataset = PictureDataset(
        source,
        lambda captions: family.tokenize(captions).ids,
        resolution=data.resolution,
        crop=data.crop,
        flip=data.flip,
        caption_dropout=data.caption_dropout,
        seed=config.seed,
    )
    if data.cache == "off":
        return dataset
    frozen_text = config.lora.text_encoder.method == "frozen"
    cache = LatentCache.build(
        dataset,
        family.encode_images,
        family.encode_prompts if frozen_text else None,
        device=device,
        progress=progress,
        num_workers=data.num_workers,
    )
    return dataset.with_cache(cache)


def module(config: TrainConfig, family: StableDiffusion) -> DiffusionModule:
    """The LightningModule with its objective, optimizer and learning-rate schedule."""
    noise = NoiseSchedule.from_config(
        family.noise_schedule_config, config.objective.prediction_type
    )
    gamma = config.objective.min_snr_gamma
    objective = Objective(noise) if gamma is None else Objective(noise, gamma)
    rates = {"unet": config.optim.unet_lr, "text_encoder": config.optim.text_encoder_lr}
    optim, scheduler = config.optim, config.scheduler
    return DiffusionModule(
        family,
        objective,
        make_optimizer=lambda parts: build_optimizer(
            optim.name,
            parameter_groups({part: (found, rates[part]) for part, found in parts.items()}),
            optim.options,
        ),
        make_schedule=lambda optimizer: build_schedule(
            scheduler.name,
            optimizer,
            warmup_steps=scheduler.warmup_steps,
            num_steps=config.trainer.max_steps,
            num_cycles=scheduler.num_cycles,
        ),
        seed=config.seed,
        check_every_n_steps=config.trainer.log_every_n_steps,
    )


def draw_settings(config: SamplingConfig, resolution: int, precision: str) -> DrawSettings:
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
    )
