"""Optimizers and learning-rate schedules by name."""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from importlib.metadata import entry_points
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from sdlora.config.rules import check_options, require_choice


def _torch_optimizer(name: str) -> Callable[[], Callable[..., Optimizer]]:
    def find() -> Callable[..., Optimizer]:
        import torch

        return getattr(torch.optim, name)

    return find


def _prodigy() -> Callable[..., Optimizer]:
    from prodigyopt import Prodigy

    return Prodigy


def _bitsandbytes(name: str) -> Callable[[], Callable[..., Optimizer]]:
    def find() -> Callable[..., Optimizer]:
        import bitsandbytes

        return getattr(bitsandbytes.optim, name)

    return find


def _schedule_free_adamw() -> Callable[..., Optimizer]:
    from schedulefree import AdamWScheduleFree

    return AdamWScheduleFree


def _pytorch_optimizer(name: str) -> Callable[[], Callable[..., Optimizer]]:
    def find() -> Callable[..., Optimizer]:
        import pytorch_optimizer

        return getattr(pytorch_optimizer, name)

    return find


OPTIMIZERS: dict[str, Callable[[], Callable[..., Optimizer]]] = {
    "adamw": _torch_optimizer("AdamW"),
    "sgd": _torch_optimizer("SGD"),
    "adafactor": _torch_optimizer("Adafactor"),
    "prodigy": _prodigy,
    "adamw8bit": _bitsandbytes("AdamW8bit"),
    "paged_adamw8bit": _bitsandbytes("PagedAdamW8bit"),
    "schedule_free_adamw": _schedule_free_adamw,
    "lion": _pytorch_optimizer("Lion"),
    "came": _pytorch_optimizer("CAME"),
}
"""Name -> a function that imports and returns the optimizer class."""

PACKAGES = {
    "prodigy": "prodigyopt",
    "adamw8bit": "bitsandbytes",
    "paged_adamw8bit": "bitsandbytes",
    "schedule_free_adamw": "schedulefree",
    "lion": "pytorch-optimizer",
    "came": "pytorch-optimizer",
}
"""Packages of the optimizers that torch does not have."""

ONE_RATE = ("prodigy",)
"""Optimizers that refuse parameter groups of different learning rates."""

FINDS_ITS_STEP = ("prodigy",)
"""Optimizers that find the step size themselves, with the rate as a factor; 1 is usual."""

RATES_LIKE_ADAMW = (
    *("adamw", "adamw8bit", "paged_adamw8bit", "adafactor", "schedule_free_adamw", "lion", "came"),
)
"""Optimizers whose rates are of AdamW's size, from a third to ten times."""

CUDA_ONLY = ("paged_adamw8bit",)
"""Optimizers for CUDA only: elsewhere bitsandbytes silently does not page."""

COSINE_ANNEALING = "cosine_annealing"

FLAT_SCHEDULES = ("constant", "constant_with_warmup")
"""Schedules for a schedule-free optimizer: at most a warm-up."""

SCHEDULES = (
    *FLAT_SCHEDULES,
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    COSINE_ANNEALING,
)
"""diffusers' learning-rate schedules, each with the arguments that it takes (warm-up, length,
cycles), and torch's cosine annealing."""


def optimizer_factory(name: str) -> Callable[..., Optimizer]:
    """The optimizer class of that name.

    Raises:
        ValueError: If the name is unknown, or its package is not installed.
    """
    added = {entry.name: entry.load for entry in entry_points(group="sdlora.optimizers")}
    known = {**OPTIMIZERS, **added}
    require_choice("optim.name", name, sorted(known))
    try:
        return known[name]()
    except ImportError as error:
        raise ValueError(
            f"optim.name={name}: needs a package that is not installed; "
            f"pip install {PACKAGES.get(name, name)}"
        ) from error


def averages_itself(factory: Callable[..., Optimizer]) -> bool:
    """Whether an optimizer averages the weights itself, switched by ``eval`` and ``train``.

    Such are the schedule-free optimizers (Defazio et al. 2024, arXiv:2405.15682).
    """
    return all(callable(getattr(factory, method, None)) for method in ("train", "eval"))


def build_optimizer(
    name: str, groups: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> Optimizer:
    """Build an optimizer.

    Args:
        name: One of ``OPTIMIZERS`` or an installed entry point.
        groups: Parameter groups, each ``{"params", "lr", "name"}``.
        options: Further arguments of the optimizer.
    """
    factory = optimizer_factory(name)
    check_options("optim.options", factory, options)
    return factory([dict(group) for group in groups], lr=groups[0]["lr"], **options)


def fused_where_faster(
    name: str,
    groups: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    *,
    scales_loss: bool,
) -> dict[str, Any]:
    """The options, with torch's fused AdamW kernel on a CUDA GPU unless they decide it.

    On a CPU it stays off: the kernel rounds differently, and runs there are the same everywhere.
    With a scaled loss it stays off too, since it would unscale the gradients itself, after they
    were clipped.

    Args:
        name: Name of the optimizer.
        groups: Parameter groups, each with ``params``.
        options: The optimizer's options; ``fused`` or ``foreach`` among them decide.
        scales_loss: Whether gradients come from a scaled loss, as in fp16.
    """
    decided = options.get("fused") is not None or options.get("foreach")
    on_cuda = all(weight.is_cuda for group in groups for weight in group["params"])
    if name != "adamw" or decided or scales_loss or not on_cuda:
        return dict(options)
    return {**options, "fused": True}


def build_schedule(
    name: str,
    optimizer: Optimizer,
    *,
    warmup_steps: int,
    num_steps: int,
    num_cycles: int,
    eta_min: float | None = None,
    steps_per_epoch: Fraction | None = None,
) -> LRScheduler:
    """Build the learning-rate schedule of that name; it steps once an optimizer step.

    Args:
        name: One of ``SCHEDULES``.
        optimizer: The optimizer.
        warmup_steps: Optimizer steps of linear warm-up.
        num_steps: Optimizer steps of the whole run.
        num_cycles: How often ``cosine_with_restarts`` starts again at the full rate.
        eta_min: Rate at which ``cosine_annealing`` ends, one for all parameter groups.
        steps_per_epoch: Interval at which ``cosine_annealing`` updates the rate; ``None``: every
            step.
    """
    from diffusers.optimization import get_scheduler

    require_choice("scheduler.name", name, sorted(SCHEDULES))
    if name == COSINE_ANNEALING:
        return LambdaLR(
            optimizer,
            [
                _annealing(
                    eta_min=(eta_min or 0.0) / group["lr"],
                    warmup_steps=warmup_steps,
                    num_steps=num_steps,
                    hold=steps_per_epoch or Fraction(1),
                )
                for group in optimizer.param_groups
            ],
        )
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=num_steps,
        num_cycles=num_cycles,
    )


def _annealing(
    eta_min: float, warmup_steps: int, num_steps: int, hold: Fraction
) -> Callable[[int], float]:
    """Factor of the rate at a step: warm-up, then half a cosine from 1 to ``eta_min``.

    SGDR's equation 5 (Loshchilov and Hutter 2017, arXiv:1608.03983), as torch's
    ``CosineAnnealingLR``. That class is not used itself: its state holds the run's length, so the
    rate of a run that is resumed with more steps would rise again; and it has no warm-up.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        held = min(step // hold * hold, Fraction(num_steps))
        share = max(held - warmup_steps, Fraction(0)) / max(num_steps - warmup_steps, 1)
        return eta_min + (1 - eta_min) * (1 + math.cos(math.pi * share)) / 2

    return factor


def parameter_groups(
    parts: Mapping[str, Mapping[str, nn.Parameter]],
    rates: Mapping[str, float],
    lora_plus_ratio: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups, one a part and with LoRA+ one more for its matrices B (``unet_b``).

    Args:
        parts: Part -> its trained parameters by name; empty parts are left out.
        rates: Part -> learning rate.
        lora_plus_ratio: The rate of B over that of the other weights; ``None``: one group a part.

    Source:
        LoRA+: Hayou et al. 2024, arXiv:2402.12354.
    """
    groups: list[dict[str, Any]] = []
    for part, named in parts.items():
        of_b = [name for name in named if lora_plus_ratio is not None and "lora_B" in name]
        others = [name for name in named if name not in set(of_b)]
        for suffix, names, ratio in (("", others, 1.0), ("_b", of_b, lora_plus_ratio)):
            if names and ratio is not None:
                weights = [named[name] for name in names]
                groups.append({"name": part + suffix, "params": weights, "lr": rates[part] * ratio})
    return groups
