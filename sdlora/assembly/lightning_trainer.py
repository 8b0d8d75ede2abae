"""Typed config -> the LightningModule, the Lightning trainer and the average of the weights."""

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch.loggers import Logger

from sdlora.assembly.adapters import trains_text
from sdlora.assembly.loss import objective
from sdlora.assembly.optimizer import optimizer, schedule
from sdlora.config.logger import LoggerConfig
from sdlora.config.lora import LoraConfig
from sdlora.config.model import ModelConfig
from sdlora.config.train import TrainConfig
from sdlora.config.trainer import TrainerConfig
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.runs.checkpoint_io import WholeCheckpointIO
from sdlora.runtime.progress import Progress
from sdlora.training.callbacks.averaging import (
    Average,
    ExponentialMovingAverage,
    ScheduleFreeAverage,
)
from sdlora.training.leavable_ddp import LeavableDDP
from sdlora.training.loggers import RunCsv, RunTensorBoard, RunWandb
from sdlora.training.module import DiffusionModule, Teacher
from sdlora.training.optimizers import averages_itself, optimizer_factory

LIGHTNING_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def trainer(
    config: TrainerConfig,
    logger: LoggerConfig,
    folder: Path,
    progress: Progress,
    *,
    skips_layers: bool,
) -> lightning.Trainer:
    """Lightning's trainer, without its own checkpoints, bar and summary.

    Args:
        config: Steps, devices and precision.
        logger: Loggers of the curves.
        folder: The run folder.
        progress: Says what cannot be logged.
        skips_layers: Whether the loss does not depend on some trained weights
            (:func:`skips_trained_layers`).
    """
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    return lightning.Trainer(
        max_steps=config.max_steps,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=_strategy(config, skips_layers),
        precision=LIGHTNING_PRECISION[config.precision],
        accumulate_grad_batches=config.accumulate_grad_batches,
        gradient_clip_val=config.gradient_clip_val,
        log_every_n_steps=config.log_every_n_steps,
        logger=[_logger(name, folder, progress) for name in logger.names],
        plugins=[WholeCheckpointIO()],
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )


def skips_trained_layers(model: ModelConfig, lora: LoraConfig) -> bool:
    """Whether clip_skip leaves out last layers of a text encoder that trains."""
    skips = model.clip_skip + description_of(model.family).unused_clip_layers > 0
    return skips and trains_text(lora, model.family)


def _strategy(config: TrainerConfig, skips_layers: bool) -> LeavableDDP | Literal["auto"]:
    """Lightning's strategy: one device, or DistributedDataParallel with a process each."""
    if config.devices * config.num_nodes == 1:
        return "auto"
    return LeavableDDP(
        timeout=timedelta(minutes=config.timeout_min),
        gradient_as_bucket_view=True,
        find_unused_parameters=skips_layers,
    )


def _logger(name: str, folder: Path, progress: Progress) -> Logger:
    known: dict[str, Callable[[Path, Progress], Logger]] = {
        "tensorboard": RunTensorBoard,
        "csv": RunCsv,
        "wandb": RunWandb,
    }
    return known[name](folder, progress)


def average(ema_decay: float | None, optimizer_name: str) -> Average | None:
    """The average of the weights that pictures and files show; ``None``: the weights themselves."""
    if ema_decay is not None:
        return ExponentialMovingAverage(ema_decay)
    if averages_itself(optimizer_factory(optimizer_name)):
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
        make_optimizer=lambda named: optimizer(
            config.optim,
            named,
            denoiser=family.denoiser_name,
            scales_loss=config.trainer.precision == "fp16",
        ),
        make_schedule=lambda of: schedule(config.scheduler, config.trainer, of, batches_per_epoch),
        seed=config.seed,
        check_every_n_steps=config.trainer.log_every_n_steps,
        teacher=teacher,
    )
