"""Typed config -> optimizer and learning-rate schedule, with their checks."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sdlora.adapters.learned_embedding import NEW_ROWS
from sdlora.config.lora import LoraConfig
from sdlora.config.optim import OptimConfig
from sdlora.config.rules import ConfigError, check_options, require, require_choice
from sdlora.config.scheduler import SchedulerConfig
from sdlora.config.trainer import TrainerConfig
from sdlora.models.families import description_of
from sdlora.training.optimizers import (
    CUDA_ONLY,
    FLAT_SCHEDULES,
    ONE_RATE,
    SCHEDULES,
    averages_itself,
    build_optimizer,
    build_schedule,
    fused_where_faster,
    optimizer_factory,
    parameter_groups,
)


def check_optimizer(optim: OptimConfig, accelerator: str, rates: Mapping[str, float]) -> None:
    """Check the optimizer by a step on four numbers, before anything loads.

    Args:
        optim: Optimizer and rates.
        accelerator: ``trainer.accelerator``.
        rates: Rates of the trained parts, from :func:`trained_rates`.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    factory = optimizer_factory(optim.name)
    check_options("optim.options", factory, optim.options)
    has_cuda = torch.cuda.is_available() and accelerator in ("auto", "gpu")
    require(
        has_cuda or optim.name not in CUDA_ONLY,
        "optim.name",
        optim.name,
        "needs an NVIDIA GPU, whose driver moves the state out of a full memory; elsewhere use "
        "adamw8bit",
    )
    weight = torch.nn.Parameter(torch.ones(2, 2, device="cuda" if has_cuda else "cpu"))
    weight.grad = torch.ones_like(weight)
    try:
        probe: Any = factory([weight], lr=optim.unet_lr, **optim.options)
        if averages_itself(factory):
            probe.train()
        probe.step(lambda: torch.zeros(()))
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"optim.options={optim.options}: {optim.name} does not accept this value ({error})"
        ) from error
    if optim.name in ONE_RATE:
        require(
            len(set(rates.values())) == 1,
            "optim.text_encoder_lr",
            optim.text_encoder_lr,
            f"{optim.name} takes one rate for all; set it to optim.unet_lr={optim.unet_lr}",
        )
        require(
            optim.lora_plus_ratio in (None, 1),
            "optim.lora_plus_ratio",
            optim.lora_plus_ratio,
            f"{optim.name} takes one rate for all; set it to null",
        )


def check_schedule(
    scheduler: SchedulerConfig, optimizer_name: str, ema: float | None, rates: Mapping[str, float]
) -> None:
    """Check the schedule's name, and that it and the average suit optimizer and rates.

    Args:
        scheduler: The schedule.
        optimizer_name: ``optim.name``.
        ema: ``trainer.ema_decay``.
        rates: Rates of the trained parts, from :func:`trained_rates`.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    name = scheduler.name
    require_choice("scheduler.name", name, sorted(SCHEDULES))
    for part, rate in rates.items():
        require(
            scheduler.eta_min is None or scheduler.eta_min <= rate,
            "scheduler.eta_min",
            scheduler.eta_min,
            f"is above optim.{part}_lr={rate}, from which the rate comes down to it; lower it",
        )
    if averages_itself(optimizer_factory(optimizer_name)):
        require(
            name in FLAT_SCHEDULES,
            "scheduler.name",
            name,
            f"{optimizer_name} averages the weights instead of decaying the rate; use "
            "scheduler=constant or constant_with_warmup",
        )
        require(
            ema is None,
            "trainer.ema_decay",
            ema,
            f"{optimizer_name} averages the weights itself; set it to null",
        )


def trained_rates(optim: OptimConfig, lora: LoraConfig, family: str) -> dict[str, float]:
    """Learning rates of what trains, by ``optim.NAME_lr``; all text encoders have one."""
    description = description_of(family)
    methods = lora.methods(description.trainable)
    trained = {part for part, method in methods.items() if method != "frozen"}
    denoiser = description.denoiser
    key = optim.denoiser_key(denoiser)
    rates = {
        key.removesuffix("_lr"): (denoiser in trained, optim.denoiser_lr(denoiser)),
        "text_encoder": (bool(trained - {denoiser}), optim.text_encoder_lr),
        "new_word": (lora.new_word.name is not None, optim.new_word_lr),
    }
    return {name: rate for name, (is_trained, rate) in rates.items() if is_trained}


def optimizer(
    config: OptimConfig,
    trained: Mapping[str, Mapping[str, torch.nn.Parameter]],
    *,
    denoiser: str,
    scales_loss: bool,
) -> Optimizer:
    """The optimizer over the trained parameters.

    Args:
        config: Optimizer and rates.
        trained: The parameters by part and name.
        denoiser: Which part is the denoiser; the others are text encoders.
        scales_loss: Whether gradients come from a scaled loss, as in fp16.
    """
    named, rates = {}, {}
    for part, parameters in trained.items():
        rows = {name: rows for name, rows in parameters.items() if name.endswith(NEW_ROWS)}
        named[part] = {name: rest for name, rest in parameters.items() if name not in rows}
        rates[part] = config.denoiser_lr(part) if part == denoiser else config.text_encoder_lr
        named[f"{part}_new_word"], rates[f"{part}_new_word"] = rows, config.new_word_lr
    groups = parameter_groups(named, rates, config.lora_plus_ratio)
    options = fused_where_faster(config.name, groups, config.options, scales_loss=scales_loss)
    return build_optimizer(config.name, groups, options)


def schedule(
    config: SchedulerConfig, trainer: TrainerConfig, of: Optimizer, batches_per_epoch: int | None
) -> LRScheduler:
    """The learning-rate schedule, by step or by epoch.

    Args:
        config: The schedule.
        trainer: Steps of the run, and batches of a step.
        of: The optimizer.
        batches_per_epoch: Over all processes; ``None``: a stream.
    """
    steps_per_epoch = None
    if config.per == "epoch":
        assert batches_per_epoch is not None, "the checks refuse a stream"
        window = trainer.accumulate_grad_batches * trainer.devices * trainer.num_nodes
        steps_per_epoch = Fraction(batches_per_epoch, window)
    return build_schedule(
        config.name,
        of,
        warmup_steps=config.warmup_steps,
        num_steps=trainer.max_steps,
        num_cycles=config.num_cycles,
        eta_min=config.eta_min,
        steps_per_epoch=steps_per_epoch,
    )
