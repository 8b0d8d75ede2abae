"""Updates of single layers in a model's own weights: applied, scaled, taken out again, kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sdlora.adapters.layer_paths import CLIP_INSIDE
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.spec import LoraError
from sdlora.adapters.update_formulas import NoUpdateError

_APPLIED = "_sdlora_applied_updates"
"""Attribute of a part whose weights are changed."""


@dataclass(slots=True)
class _Applied:
    """Updates in the weights of a part, and the weights before them, on the CPU."""

    updates: Mapping[str, LayerUpdate]
    before: dict[str, Tensor] = field(default_factory=dict)


def fit_updates(module: nn.Module, updates: Mapping[str, LayerUpdate]) -> list[str]:
    """What of the updates does not fit a part, one line each.

    Each is formed on shapes alone, so the part may be on the meta device. Quantised weights have no
    shape that could be compared.
    """
    modules, problems = dict(module.named_modules()), []
    for layer, update in updates.items():
        weight = getattr(modules.get(layer), "weight", None)
        if not isinstance(weight, Tensor):
            problems.append(f"{layer}: matches no layer of {type(module).__name__}")
            continue
        if not weight.is_floating_point():  # packed: apply_updates refuses it by its cause
            continue
        try:
            change = update.to("meta").change(weight.detach().to("meta"))
        except NoUpdateError as error:
            problems.append(f"{layer}: {error}")
            continue
        except RuntimeError:
            shapes = ", ".join(f"{role} {list(shape)}" for role, shape in update.shapes.items())
            problems.append(
                f"{layer}: {update.title} of {shapes}, the layer is {list(weight.shape)}"
            )
            continue
        if change.weight is not None and change.weight.shape != weight.shape:
            problems.append(
                f"{layer}: {update.title} of shape {list(change.weight.shape)}, the layer needs "
                f"{list(weight.shape)}"
            )
        own = getattr(modules[layer], "bias", None)
        if change.bias is not None and (own is None or own.shape != change.bias.shape):
            problems.append(f"{layer}: a bias of {list(change.bias.shape)}, which it does not have")
    return problems


def apply_updates(module: nn.Module, updates: Mapping[str, LayerUpdate], scale: float) -> None:
    """Change the weights of a part, in place.

    Args:
        module: A part with weights in a float type, without such a change.
        updates: Layer -> update, all of which fit.
        scale: Strength; the change is linear in it for every kind.

    Raises:
        LoraError: If weights are changed already, or quantised.
    """
    if hasattr(module, _APPLIED):
        raise LoraError("the weights are changed by a LoRA already; remove it first")
    modules = dict(module.named_modules())
    packed = [layer for layer in updates if not _weight(modules[layer]).is_floating_point()]
    if packed:
        raise LoraError(
            f"{packed[0]}: its weights are quantised, and {updates[packed[0]].title} changes the "
            "weights themselves; load the base without model.quantise"
        )
    setattr(module, _APPLIED, _Applied(updates))
    scale_updates(module, scale)


def scale_updates(module: nn.Module, scale: float) -> None:
    """Set the strength of applied updates; nothing for a part without."""
    applied: _Applied | None = getattr(module, _APPLIED, None)
    if applied is None:
        return
    modules = dict(module.named_modules())
    for layer, update in applied.updates.items():
        weight, bias = _weight(modules[layer]), getattr(modules[layer], "bias", None)
        before = applied.before.setdefault(f"{layer}.weight", weight.detach().cpu().clone())
        original = before.to(weight.device)
        change = update.to(weight.device).change(original)
        if change.weight is not None:
            _set(weight, original.float() + scale * change.weight)
        if change.bias is not None and isinstance(bias, Tensor):
            kept = applied.before.setdefault(f"{layer}.bias", bias.detach().cpu().clone())
            _set(bias, kept.to(bias.device).float() + scale * change.bias)


def remove_updates(module: nn.Module) -> None:
    """Give a part its weights back, to the bit; nothing for a part without updates."""
    applied: _Applied | None = getattr(module, _APPLIED, None)
    if applied is None:
        return
    parameters: Mapping[str, Any] = dict(module.named_parameters())
    for name, before in applied.before.items():
        _set(parameters[name], before.to(parameters[name].device))
    delattr(module, _APPLIED)


def applied_updates(module: nn.Module) -> dict[str, LayerUpdate]:
    """The updates that are in the weights of a part, by layer as in files; none without."""
    applied: _Applied | None = getattr(module, _APPLIED, None)
    updates = {} if applied is None else applied.updates
    return {layer.removeprefix(CLIP_INSIDE): update for layer, update in updates.items()}


def keep_updates(module: nn.Module) -> None:
    """Leave applied updates in the weights for good."""
    if hasattr(module, _APPLIED):
        delattr(module, _APPLIED)


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _set(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)
