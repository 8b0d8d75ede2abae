"""Inspection of a LoRA's weights: norms by block, strongest layers, NaN and infinity."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sdlora.adapters.arithmetic import update_norm
from sdlora.adapters.formats import read_lora
from sdlora.adapters.inspection import block_of
from sdlora.adapters.lora_file import LoraFile

NUM_STRONGEST = 3


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """Weights of one part of a model.

    Attributes:
        norm: Frobenius norm of the part's whole update, as far as it is known without a base;
            ``None``: not finite.
        blocks: Block -> norm of the update in it.
        strongest: Layers with the largest norms, in descending order.
        without_norm: Number of layers whose update is a function of the base's weights; a DoRA's
            magnitudes are left out.
        not_finite: Tensors that hold NaN or infinity.
    """

    norm: float | None
    blocks: dict[str, float]
    strongest: dict[str, float]
    without_norm: int
    not_finite: list[str]


def inspect_weights(path: Path) -> dict[str, WeightFacts]:
    """The facts of each part of a file; NaN and infinity are reported, not refused.

    Raises:
        LoraError: If it cannot be read, or is of a family that is not loaded here.
    """
    lora = read_lora(path, must_be_finite=False, skip_unknown=True)
    return {part: weight_facts(lora, part) for part in lora.parts}


def weight_facts(lora: LoraFile, part: str) -> WeightFacts:
    """The facts of one part of a LoRA."""
    norms, unknown = {}, 0
    for name, norm in _norms(lora, part):
        if norm is None:
            unknown += 1
        else:
            norms[name] = norm
    not_finite = _not_finite(lora, part)
    blocks: dict[str, float] = {}
    for name, norm in norms.items():
        block = block_of(name)
        blocks[block] = (blocks.get(block, 0.0) ** 2 + norm**2) ** 0.5
    strongest = sorted(norms, key=lambda name: -norms[name])[:NUM_STRONGEST]
    if not_finite:
        return WeightFacts(None, {}, {}, unknown, not_finite)
    return WeightFacts(
        norm=sum(norm**2 for norm in norms.values()) ** 0.5,
        blocks=blocks,
        strongest={name: norms[name] for name in strongest},
        without_norm=unknown,
        not_finite=[],
    )


def _norms(lora: LoraFile, part: str) -> Iterator[tuple[str, float | None]]:
    if part in lora.states:
        for name, layer in lora.layers(part).items():
            yield name, update_norm(layer)
    for name, update in lora.updates.get(part, {}).items():
        yield name, update.norm()


def _not_finite(lora: LoraFile, part: str) -> list[str]:
    tensors = dict(lora.states.get(part, {}))
    for name, update in lora.updates.get(part, {}).items():
        tensors |= {f"{name}.{role}": tensor for role, tensor in update.tensors.items()}
    return [key for key, value in tensors.items() if not torch.isfinite(value.float()).all()]
