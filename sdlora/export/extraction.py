"""Extraction of a LoRA from the difference of two models, by SVD."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sdlora.adapters.arithmetic import Cut, Energy, difference_layer
from sdlora.adapters.file_keys import Layers
from sdlora.adapters.layer_paths import CLIP_INSIDE
from sdlora.adapters.lora_places import Layout
from sdlora.adapters.spec import LoraError, listing
from sdlora.adapters.strength import merge
from sdlora.export.lora_files import FreshBase
from sdlora.export.proof import LOADERS, ExportError
from sdlora.runtime.progress import Progress

RELATIVE_TOLERANCE = 1e-3
"""Tolerance relative to the error of the discarded singular values, sums of float32 numbers."""

ROUNDING = 1e-5
"""Tolerance relative to the tuned weights' norm, for the rounding of float32 weights."""


@dataclass(slots=True)
class Difference:
    """Difference of one part of two models.

    Attributes:
        layers: Layers of the LoRA, without those that are equal in both models.
        energy: Energy of the difference in these layers.
        left_out: Weights that differ and that a LoRA cannot hold: norms, biases, embeddings.
    """

    layers: Layers = field(default_factory=dict)
    energy: Energy = field(default_factory=Energy)
    left_out: list[str] = field(default_factory=list)


def extract(
    tuned: Mapping[str, nn.Module], base: Mapping[str, nn.Module], cut: Cut, progress: Progress
) -> dict[str, Difference]:
    """The LoRA nearest to ``tuned - base``, layer by layer.

    Linear layers and convolutions whose weights differ at all get one; others are left out.

    Args:
        tuned: Parts by name, float32.
        base: The same parts of the other model.
        cut: The rank, or the share of the squared singular values to keep.
        progress: Shows a bar of the layers.

    Raises:
        LoraError: Listing weights that only one model has or whose shapes differ; or if there is no
            difference that a LoRA could hold.
    """
    problems = [line for part in base for line in _misfits(part, tuned[part], base[part])]
    if problems:
        raise LoraError(
            f"the two models differ in architecture: {len(problems)} weights do not fit"
            f"{listing(problems)}\nGive the base that the tuned model was made from."
        )
    found = {part: _part_difference(part, tuned[part], base[part], cut, progress) for part in base}
    if not any(each.layers for each in found.values()):
        raise LoraError("the two models do not differ in any layer that a LoRA can change")
    return found


def prove_extraction(
    path: Path,
    layout: Layout,
    fresh_base: FreshBase,
    tuned: Mapping[str, nn.Module],
    differences: Mapping[str, Difference],
) -> dict[str, float]:
    """Load the file on the base by the users' loader, merge, and compare with the tuned model.

    The distance of the weights must be the root of the discarded energy, within
    ``RELATIVE_TOLERANCE`` of it and ``ROUNDING`` of the weights' norm; at full rank only the
    rounding remains.

    Returns:
        Relative error by part: the distance over the norm of the whole difference.

    Raises:
        ExportError: If a distance differs from that.
    """
    family = fresh_base()
    parts = {part: family.parts[part] for part, each in differences.items() if each.layers}
    LOADERS[layout](path, family.pipeline(), parts)
    errors = {}
    for part, module in parts.items():
        energy, layers = differences[part].energy, differences[part].layers
        merge(module)
        merged = {
            name.replace(".base_layer", "").removeprefix(CLIP_INSIDE): weight
            for name, weight in module.state_dict().items()
        }
        wanted = {
            name: weight
            for name, weight in _weights(tuned[part]).items()
            if name.removesuffix(".weight") in layers
        }
        norm = sum(_squares(weight) for weight in wanted.values()) ** 0.5
        distance = sum(_squares(merged[k] - w) for k, w in wanted.items()) ** 0.5
        expected = energy.lost**0.5
        limit = RELATIVE_TOLERANCE * expected + ROUNDING * norm
        if not abs(distance - expected) <= limit:
            raise ExportError(
                f"{path}: {part}: merged into the base, its distance from the tuned model is "
                f"{distance:.3g}; the discarded singular values give {expected:.3g} (allowed "
                f"{limit:.3g})"
            )
        errors[part] = distance / energy.total**0.5
    return errors


def _part_difference(
    part: str, tuned: nn.Module, base: nn.Module, cut: Cut, progress: Progress
) -> Difference:
    found = Difference()
    before, after = _weights(base), _weights(tuned)
    adaptable = {
        f"{name}.weight".removeprefix(CLIP_INSIDE)
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    for name in progress.track(list(before), f"SVD of {part}"):
        if torch.equal(before[name], after[name]):
            continue
        if name not in adaptable:
            found.left_out.append(name)
            continue
        layer, energy = difference_layer(after[name] - before[name], cut)
        found.layers[name.removesuffix(".weight")] = layer
        found.energy += energy
    return found


def _misfits(part: str, tuned: nn.Module, base: nn.Module) -> list[str]:
    before, after = _weights(base), _weights(tuned)
    lines = [f"{part}.{name}: in one model only" for name in sorted(before.keys() ^ after.keys())]
    return lines + [
        f"{part}.{name}: {list(after[name].shape)}, in the base {list(before[name].shape)}"
        for name in before.keys() & after.keys()
        if before[name].shape != after[name].shape
    ]


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Float parameters by name, as the adapters' layers are named."""
    return {name.removeprefix(CLIP_INSIDE): p.detach() for name, p in module.named_parameters()}


def _squares(values: Tensor) -> float:
    return float(values.double().square().sum())
