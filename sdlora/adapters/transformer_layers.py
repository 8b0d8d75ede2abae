"""Layers of transformer families under their names in diffusers; fused ones in three."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from sdlora.adapters.adapter_layers import FileLayer
from sdlora.adapters.transformer_names import NAMES, diffusers_layers

PART = "transformer"

_BY_ROWS = frozenset({"magnitude", "dora_scale"})
"""Roles that have a number for each output, or one row for the inputs."""

_OF_SPLIT = frozenset({"A", "B", "alpha"}) | _BY_ROWS
"""Roles of the adapters that a fused layer can be split with."""

_ENDS = {"A": "lora_A.weight", "B": "lora_B.weight", "alpha": "alpha"}


def in_diffusers_names(
    tensors: Mapping[str, Tensor], layers: Mapping[str, FileLayer], family: str | None
) -> dict[str, Tensor] | None:
    """The tensors of a file under the names of diffusers; ``None`` for other families.

    A LoRA on the fused projection of queries, keys and values becomes one on each, which is exact:
    they share A, and each has its third of the rows of B. What has no name here keeps its key.

    Args:
        tensors: By key.
        layers: Layers by the file's own names.
        family: ``model.family`` of the file.
    """
    if family not in NAMES:
        return None
    found = dict(tensors)
    for name, layer in layers.items():
        targets = diffusers_layers(name, family)
        is_split = len(targets) > 1
        if not targets or (is_split and not layer.keys.keys() <= _OF_SPLIT):
            continue
        renamed = {
            f"{PART}.{target}.{end}": share
            for role, key in layer.keys.items()
            for end, target, share in _shares(
                role, key.removeprefix(f"{name}."), targets, tensors[key]
            )
        }
        own = set(layer.keys.values())
        if renamed.keys() & (found.keys() - own):
            continue  # a second one for these layers: it stays unplaced, and is listed
        for key in own:
            del found[key]
        found |= renamed
    return found


def _shares(
    role: str, end: str, targets: tuple[str, ...], value: Tensor
) -> Iterator[tuple[str, str, Tensor]]:
    """End of the key, layer and tensor of each layer that a name stands for."""
    by_rows = role == "B" or (role in _BY_ROWS and value.shape[0] > 1)
    shares = value.chunk(len(targets)) if by_rows else (value,) * len(targets)
    for target, share in zip(targets, shares, strict=True):
        yield _ENDS.get(role, end), target, share.contiguous()
