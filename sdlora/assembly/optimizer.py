"""Typed config -> optimizer and learning-rate schedule, and what of them does not go together."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sdlora.adapters.learned_embedding import NEW_ROWS
from sdlora.config.rules import ConfigError, require
from sdlora.config.train import TrainConfig
from sdlora.models.layouts import layout_of
from sdlora.training.optimizers import (
    CUDA_ONLY,
    FINDS_ITS_STEP,
    FLAT_SCHEDULES,
    ONE_RATE,
    SCHEDULES,
    averages_itself,
    build_optimizer,
    build_schedule,
    check_options,
    choice,
    fused_where_faster,
    optimizer_factory,
    parameter_groups,
)


def check_optimizer(config: TrainConfig) -> None:
    """Take a step with four numbers, so that a wrong option is known before anything loads."""
    optim = config.optim
    factory = optimizer_factory(optim.name)
    check_options("optim.options", factory, optim.options)
    has_cuda = torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu")
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
            f"optim.options={optim.options}: {optim.name} does not take such a value ({error})"
        ) from error
    if optim.name in ONE_RATE:
        rates = trained_rates(config)
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


def check_schedule(config: TrainConfig) -> None:
    """Check the schedule's name, and that it suits the optimizer."""
    name = choice("scheduler.name", config.scheduler.name, SCHEDULES)
    if averages_itself(optimizer_factory(config.optim.name)):
        require(
            name in FLAT_SCHEDULES,
            "scheduler.name",
            name,
            f"{config.optim.name} averages the weights instead of lowering the rate; use "
            "scheduler=constant or constant_with_warmup",
        )
        require(
            config.trainer.ema_decay is None,
            "trainer.ema_decay",
            config.trainer.ema_decay,
            f"{config.optim.name} averages the weights itself; set it to null",
        )


def trained_rates(config: TrainConfig) -> dict[str, float]:
    """Learning rates of the parts that train; all text encoders have one."""
    rates = {"unet": config.optim.unet_lr, "text_encoder": config.optim.text_encoder_lr}
    methods = {p: getattr(config.lora, p).method for p in layout_of(config.model.family).trainable}
    trained = {p.removesuffix("_2") for p, method in methods.items() if method != "frozen"}
    rates = {part: rate for part, rate in rates.items() if part in trained}
    is_learned = config.lora.new_word.name is not None
    return {**rates, "new_word": config.optim.new_word_lr} if is_learned else rates


def rate_notes(config: TrainConfig) -> list[str]:
    """What to say of learning rates that are allowed, and probably not meant."""
    if config.optim.name not in FINDS_ITS_STEP:
        return []
    return [
        f"optim.{part}_lr={rate}: {config.optim.name} finds its own step size, and this is a "
        "factor on it; 1 is usual"
        for part, rate in trained_rates(config).items()
        if not 0.1 <= rate <= 10
    ]


def optimizer(
    config: TrainConfig, trained: Mapping[str, Mapping[str, torch.nn.Parameter]]
) -> Optimizer:
    """The optimizer over the trained parameters, by part and name."""
    settings = config.optim
    named, rates = {}, {}
    for part, parameters in trained.items():
        rows = {name: rows for name, rows in parameters.items() if name.endswith(NEW_ROWS)}
        named[part] = {name: rest for name, rest in parameters.items() if name not in rows}
        rates[part] = settings.unet_lr if part == "unet" else settings.text_encoder_lr
        named[f"{part}_new_word"], rates[f"{part}_new_word"] = rows, settings.new_word_lr
    groups = parameter_groups(named, rates, settings.lora_plus_ratio)
    options = fused_where_faster(
        settings.name, groups, settings.options, scales_loss=config.trainer.precision == "fp16"
    )
    return build_optimizer(settings.name, groups, options)


def schedule(config: TrainConfig, of: Optimizer, batches_per_epoch: int | None) -> LRScheduler:
    """The learning-rate schedule, by step or by epoch."""
    settings = config.scheduler
    steps_per_epoch = None
    if settings.per == "epoch":
        assert batches_per_epoch is not None, "the checks refuse a stream"
        trainer = config.trainer
        window = trainer.accumulate_grad_batches * trainer.devices * trainer.num_nodes
        steps_per_epoch = Fraction(batches_per_epoch, window)
    return build_schedule(
        settings.name,
        of,
        warmup_steps=settings.warmup_steps,
        num_steps=config.trainer.max_steps,
        num_cycles=settings.num_cycles,
        eta_min=settings.eta_min,
        steps_per_epoch=steps_per_epoch,
    )
