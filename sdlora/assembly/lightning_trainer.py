"""Typed config -> the LightningModule, and the trainer that runs it."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from sdlora.assembly.adapters import trains_text
from sdlora.assembly.loss import objective
from sdlora.assembly.optimizer import optimizer, schedule
from sdlora.config.train import TrainConfig
from sdlora.models.family import Family
from sdlora.runs.checkpoint_io import WholeCheckpointIO
from sdlora.training.callbacks.averaging import (
    Average,
    ExponentialMovingAverage,
    ScheduleFreeAverage,
)
from sdlora.training.module import DiffusionModule, Teacher
from sdlora.training.optimizers import averages_itself, optimizer_factory

LIGHTNING_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


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
