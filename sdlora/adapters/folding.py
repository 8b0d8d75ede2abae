"""Alpha folded into the weights, where files of a part hold none: one strength in every reader."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from sdlora.adapters.file_keys import parse_key
from sdlora.adapters.lora import adapted_layers, lora_state_dict
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.spec import LoraSpec
from sdlora.models.description import PartNames


def folded(lora: LoraFile, names: Mapping[str, PartNames]) -> LoraFile:
    """The same update with alphas equal to ranks, in the parts whose files hold no alpha.

    Matrices B are multiplied by ``alpha / r``, in float32; other parts stay as they are.

    Args:
        lora: A LoRA.
        names: Names of its family's parts in files.
    """
    chosen = [part for part in lora.states if names[part].folds_alpha]
    states, specs = dict(lora.states), dict(lora.specs)
    for part in chosen:
        scales = {
            layer: tensors["alpha"].item() / tensors["A"].shape[0]
            for layer, tensors in lora.layers(part).items()
        }
        states[part] = _scaled(lora.states[part], scales)
        specs[part] = _with_alpha_as_rank(lora.specs[part])
    return replace(lora, states=states, specs=specs)


def unfolded(
    lora: LoraFile, parts: Mapping[str, nn.Module], names: Mapping[str, PartNames]
) -> LoraFile:
    """The inverse, for the adapters that a file was written from: their alphas are theirs again.

    Args:
        lora: A LoRA as :func:`folded` gives it.
        parts: The model's parts, with these adapters.
        names: Names of its family's parts in files.
    """
    states = dict(lora.states)
    for part in states:
        if names[part].folds_alpha:
            layers = adapted_layers(parts[part])
            states[part] = _scaled(states[part], {n: r / alpha for n, (r, alpha) in layers.items()})
    return replace(lora, states=states)


def folded_state(module: nn.Module) -> dict[str, Tensor]:
    """The adapter of a model's part with alphas folded, by raw peft key; see :func:`folded`."""
    scales = {layer: alpha / r for layer, (r, alpha) in adapted_layers(module).items()}
    return _scaled(lora_state_dict(module), scales)


def _scaled(state: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Tensor]:
    found = dict(state)
    for key, value in state.items():
        layer, kind = parse_key(key)
        if kind == "B" and scales[layer] != 1.0:
            found[key] = value.float() * scales[layer]
    return found


def _with_alpha_as_rank(spec: LoraSpec) -> LoraSpec:
    alphas = {layer: float(r) for layer, r in spec.rank_pattern.items()}
    return replace(spec, alpha=float(spec.r), alpha_pattern=alphas, use_rslora=False)
