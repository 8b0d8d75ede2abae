"""Comparison of an adapter read back with the one that was written: bits, and updates."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sdlora.adapters.arithmetic import inner_product, update_norm
from sdlora.adapters.comparison import Compared
from sdlora.adapters.file_writing import adapters_of
from sdlora.adapters.folding import folded, in_dtype
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.lora import lora_parameters
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.weight_updates import applied_updates

FOLDED = 1e-5
"""Largest difference of an update before and after alpha is folded, relative to its norm: float32
rounds one matrix."""

ONE = "part"
"""Name of the part where there is one alone."""


def update_tolerance(dtype: torch.dtype) -> float:
    """Largest relative difference of an update in a file of this type."""
    return FOLDED if dtype == torch.float32 else FOLDED + 4 * torch.finfo(dtype).eps


def adapter_in(module: nn.Module) -> LoraFile:
    """The adapter of a part, or the updates in its weights, as a LoRA of one part; else empty."""
    if lora_parameters(module):
        return adapters_of({ONE: module}, {})
    empty = LoraFile(states={}, specs={}, metadata={}, layout="diffusers")
    updates = applied_updates(module)
    return replace(empty, updates={ONE: updates}) if updates else empty


def adapter_differences(
    written: LoraFile, found: LoraFile, layout: str, dtype: torch.dtype
) -> list[str]:
    """Entries of two adapters of one part that are not the same.

    Their tensors, with alpha in them, must be equal to the bit, after rounding to the file's type;
    and the updates themselves, each with the alpha that it has, within ``update_tolerance``: a
    wrong fold of alpha would pass the first.

    Args:
        written: :func:`adapter_in` of the part that was written.
        found: The same of the part that it was loaded into.
        layout: peft's folders are rounded before alpha is folded.
        dtype: Of the file.
    """
    is_late = layout == "peft"
    rounded = folded(in_dtype(written, dtype)) if is_late else in_dtype(folded(written), dtype)
    before, after = _tensors(rounded), _tensors(folded(found))
    wrong = sorted(before.keys() ^ after.keys())
    wrong += [
        key
        for key in before.keys() & after.keys()
        if not torch.equal(before[key].float(), after[key].float())
    ]
    return wrong or different_updates(written, found, update_tolerance(dtype))


def different_updates(one: LoraFile, other: LoraFile, tolerance: float) -> list[str]:
    """Layers whose updates differ, alpha included: norm and inner product of both, in float64.

    A DoRA's magnitudes are left out, and what is a function of the base's weights has no alpha.

    Args:
        one: A LoRA.
        other: One with the same layers.
        tolerance: Norm of the difference, relative to the larger update.
    """
    wrong = []
    for part in one.states:
        first, second = one.layers(part), other.layers(part)
        for name, layer in first.items():
            both = Compared(
                one=update_norm(layer) ** 2,
                other=update_norm(second[name]) ** 2,
                inner=inner_product(layer, second[name]),
            )
            wrong += [name] if not both.difference <= tolerance else []
    for part, layers in one.updates.items():
        for name, update in layers.items():
            if not _is_near(update, other.updates[part][name], tolerance):
                wrong.append(name)
    return wrong


def _is_near(one: LayerUpdate, other: LayerUpdate, tolerance: float) -> bool:
    if one.kind.of_base:
        return True
    first, second = one.update(), other.update()
    largest = max(float(first.norm()), float(second.norm()))
    return float((first - second).norm()) <= tolerance * largest


def _tensors(lora: LoraFile) -> Mapping[str, Tensor]:
    found = {key: value for state in lora.states.values() for key, value in state.items()}
    for layers in lora.updates.values():
        for layer, update in layers.items():
            found |= {f"{layer}.{role}": tensor for role, tensor in update.tensors.items()}
    return found
