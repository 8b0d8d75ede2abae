"""Optimizers and learning-rate schedules by name, with options checked against real signatures."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def _torch_optimizer(name: str) -> Callable[[], Callable[..., Optimizer]]:
    def find() -> Callable[..., Optimizer]:
        import torch

        return getattr(torch.optim, name)

    return find


def _prodigy() -> Callable[..., Optimizer]:
    from prodigyopt import Prodigy

    return Prodigy


def _adamw_8bit() -> Callable[..., Optimizer]:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit


OPTIMIZERS: dict[str, Callable[[], Callable[..., Optimizer]]] = {
    "adamw": _torch_optimizer("AdamW"),
    "sgd": _torch_optimizer("SGD"),
    "adafactor": _torch_optimizer("Adafactor"),
    "prodigy": _prodigy,
    "adamw8bit": _adamw_8bit,
}
"""Name -> a function that imports and returns the optimizer class."""

EXTRAS = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}
"""Optimizers that need a package of their own."""

SCHEDULES = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
)
"""diffusers' learning-rate schedules; each takes of warm-up, length and cycles what it knows."""


def choice(key: str, value: str, known: Sequence[str]) -> str:
    """Return ``value`` if it is known, else raise with the nearest name and all choices.

    Raises:
        ValueError: Naming ``key``, ``value``, the nearest name and every choice.
    """
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"{key}={value}: unknown; {hint}choices: {', '.join(sorted(known))}")


def optimizer_factory(name: str) -> Callable[..., Optimizer]:
    """The optimizer class of that name.

    Raises:
        ValueError: If the name is unknown, or its package is not installed.
    """
    added = {entry.name: entry.load for entry in entry_points(group="sdlora.optimizers")}
    known = {**OPTIMIZERS, **added}
    choice("optim.name", name, list(known))
    try:
        return known[name]()
    except ImportError as error:
        raise ValueError(
            f"optim.name={name}: needs a package that is not installed; "
            f"pip install {EXTRAS.get(name, name)}"
        ) from error


def check_options(key: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Bind ``options`` to the factory's signature before anything is built.

    Raises:
        ValueError: Naming the option, the nearest real one, and all of them.
    """
    known = [
        name
        for name, parameter in inspect.signature(factory).parameters.items()
        if name not in {"params", "lr", "self"} and parameter.kind != parameter.VAR_KEYWORD
    ]
    for option, value in options.items():
        try:
            choice(key, option, known)
        except ValueError as error:
            _, _, remedy = str(error).partition(": ")
            raise ValueError(f"{key}.{option}={value}: {remedy}") from None


def build_optimizer(
    name: str, groups: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> Optimizer:
    """Build an optimizer.

    Args:
        name: One of ``OPTIMIZERS`` or an installed entry point.
        groups: Parameter groups, each ``{"params", "lr", "name"}``.
        options: Further arguments of the optimizer's own.
    """
    factory = optimizer_factory(name)
    check_options("optim.options", factory, options)
    return factory([dict(group) for group in groups], **options)


def build_schedule(
    name: str, optimizer: Optimizer, *, warmup_steps: int, num_steps: int, num_cycles: int
) -> LRScheduler:
    """Build diffusers' learning-rate schedule of that name; it steps once an optimizer step.

    Args:
        name: One of ``SCHEDULES``.
        optimizer: What it drives.
        warmup_steps: Optimizer steps of linear warm-up.
        num_steps: Optimizer steps of the whole run.
        num_cycles: How often ``cosine_with_restarts`` starts again at the full rate.
    """
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        choice("scheduler.name", name, SCHEDULES),
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=num_steps,
        num_cycles=num_cycles,
    )


def parameter_groups(
    parts: Mapping[str, tuple[Sequence[nn.Parameter], float]],
) -> list[dict[str, Any]]:
    """Parameter groups from part name -> (parameters, learning rate); empty parts are left out."""
    return [
        {"name": name, "params": list(parameters), "lr": rate}
        for name, (parameters, rate) in parts.items()
        if parameters
    ]
