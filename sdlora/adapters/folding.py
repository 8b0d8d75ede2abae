"""Alpha folded into the weights: a LoRA file has one strength in every reader."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sdlora.adapters.file_keys import parse_key
from sdlora.adapters.layer_paths import CLIP_INSIDE
from sdlora.adapters.lora import adapted_layers, lora_state_dict
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.spec import LoraSpec
from sdlora.adapters.trained_updates import (
    TYPE_OF,
    folded_update,
    has_updates,
    state_of,
    updates_of,
)


def folded(lora: LoraFile) -> LoraFile:
    """The same update with alphas equal to ranks, for readers that know no alpha.

    Matrices B are multiplied by ``alpha / r`` where that is not 1; they keep their dtype where it
    holds the result exactly, and else are float32.
    """
    return replace(
        lora,
        states={part: _scaled(state, _scales(lora, part)) for part, state in lora.states.items()},
        specs={part: _with_alpha_as_rank(spec) for part, spec in lora.specs.items()},
        updates={
            part: {
                layer: folded_update(update) if update.kind.name in TYPE_OF else update
                for layer, update in layers.items()
            }
            for part, layers in lora.updates.items()
        },
    )


def in_dtype(lora: LoraFile, dtype: torch.dtype) -> LoraFile:
    """The same LoRA with all its tensors rounded to a float type."""
    return replace(
        lora,
        states={
            part: {key: value.to(dtype) for key, value in state.items()}
            for part, state in lora.states.items()
        },
        updates={
            part: {
                layer: replace(each, tensors={r: t.to(dtype) for r, t in each.tensors.items()})
                for layer, each in layers.items()
            }
            for part, layers in lora.updates.items()
        },
    )


def with_alphas_of(lora: LoraFile, parts: Mapping[str, nn.Module]) -> LoraFile:
    """The states that make the same update in adapters of other alphas; specs stay as they are.

    Args:
        lora: A LoRA, or updates of a type that is trained here; these become states, too.
        parts: The model's parts, with adapters of the same type and ranks.
    """
    states = dict(lora.states)
    for part, state in lora.states.items():
        own = _scales(lora, part)
        states[part] = _scaled(
            state,
            {
                _nameless(layer): own[_nameless(layer)] / (alpha / r)
                for layer, (r, alpha) in adapted_layers(parts[part]).items()
                if _nameless(layer) in own
            },
        )
    for part, updates in lora.updates.items():
        states[part] = state_of(updates, parts[part])
    return replace(lora, states=states, updates={})


def folded_state(module: nn.Module) -> dict[str, Tensor]:
    """The adapter of a model's part with alphas folded, by raw peft key; see :func:`folded`."""
    if has_updates(module):
        return {
            f"{layer}.{role}": tensor
            for layer, update in updates_of(module).items()
            for role, tensor in folded_update(update).tensors.items()
        }
    layers = adapted_layers(module).items()
    return _scaled(lora_state_dict(module), {_nameless(n): alpha / r for n, (r, alpha) in layers})


def _scales(lora: LoraFile, part: str) -> dict[str, float]:
    """``alpha / r`` of each layer."""
    return {
        _nameless(layer): tensors["alpha"].item() / tensors["A"].shape[0]
        for layer, tensors in lora.layers(part).items()
    }


def _nameless(layer: str) -> str:
    return layer.removeprefix(CLIP_INSIDE)


def _scaled(state: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Tensor]:
    found = dict(state)
    for key, value in state.items():
        layer, kind = parse_key(key)
        scale = scales.get(_nameless(layer), 1.0)
        if kind == "B" and scale != 1.0:
            exact = value.float() * scale
            kept = exact.to(value.dtype)
            found[key] = kept if torch.equal(kept.float(), exact) else exact
    return found


def _with_alpha_as_rank(spec: LoraSpec) -> LoraSpec:
    alphas = {layer: float(r) for layer, r in spec.rank_pattern.items()}
    return replace(spec, alpha=float(spec.r), alpha_pattern=alphas, use_rslora=False)
