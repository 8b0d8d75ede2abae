"""Tensors of an adapter file as plain LoRA layers, and as updates of single layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdlora.adapters.adapter_kinds import OUT, dora_axis
from sdlora.adapters.adapter_layers import FileLayer
from sdlora.adapters.file_keys import Layers
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.spec import LoraError

Place = Callable[[str], tuple[str, str] | None]
"""The file's name of a layer -> part and layer; ``None``: of no part."""

_PLAIN = frozenset({"A", "B", "mid", "alpha", "scalar", "magnitude", "dora_scale"})
_NUMBERS = frozenset({"alpha", "scalar", "on_input", "oft_scaled"})


@dataclass(slots=True)
class Sorted:
    """The content of a file by part and layer.

    Attributes:
        parts: Part -> plain LoRA layers: ``A``, ``B``, and optionally ``magnitude`` and ``alpha``.
        updates: Part -> layer -> other adapters.
        unplaced: Layers that are of no part or come twice, one line each.
    """

    parts: dict[str, Layers] = field(default_factory=dict)
    updates: dict[str, dict[str, LayerUpdate]] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)


def sorted_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    layers: Mapping[str, FileLayer],
    place: Place,
    alpha_of: Callable[[str, str], Any],
) -> Sorted:
    """Sort the tensors of a file.

    Args:
        path: For messages.
        tensors: By key.
        layers: Layers by the file's own names.
        place: Where each is.
        alpha_of: Part and layer -> alpha of a config beside the tensors, if any.

    Raises:
        LoraError: If the matrices of a layer do not fit each other.
    """
    found = Sorted()
    taken: dict[tuple[str, str], str] = {}
    for name, layer in layers.items():
        where = place(name)
        if where is None:
            found.unplaced.append(f"{name}: of no part of a model that is loaded here")
            continue
        if where in taken:
            found.unplaced.append(f"{name}: a second one for {' '.join(where)}, as {taken[where]}")
            continue
        taken[where] = name
        own = {role: tensors[key] for role, key in layer.keys.items()}
        for role in _NUMBERS & own.keys() - {"oft_scaled"}:
            if own[role].numel() != 1:
                raise LoraError(
                    f"{path}: {layer.keys[role]}: {own[role].numel()} numbers where one belongs; "
                    "the file is damaged: download it again"
                )
        part, target = where
        plain = _plain(path, name, own)
        if plain is not None:
            found.parts.setdefault(part, {})[target] = plain
        else:
            update = _update(layer, own, alpha_of(part, target), name.startswith("base_model."))
            found.updates.setdefault(part, {})[target] = update
    for part in list(found.parts):
        _move_what_peft_does_not_hold(found, part, layers, taken, alpha_of)
    return found


def _plain(path: Path, name: str, own: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A layer of a plain LoRA or a DoRA by outputs; ``None`` if it is none.

    A CP core is multiplied into the first matrix, which keeps the rank and the product.
    """
    if not {"A", "B"} <= own.keys() <= _PLAIN:
        return None
    a, b = own["A"], own["B"]
    ranks = (a.shape[0], b.shape[1] if b.ndim > 1 else 0)
    if "mid" in own:
        ranks = (own["mid"].shape[0], ranks[1])
        if own["mid"].shape[1] != a.shape[0]:
            raise LoraError(f"{path}: {name}: its core is of rank {own['mid'].shape[1]}, A of "
                            f"{a.shape[0]}; the file is damaged: download it again")  # fmt: skip
    if ranks[0] != ranks[1]:
        raise LoraError(
            f"{path}: {name}: rank {ranks[0]} in A and {ranks[1]} in B; the file is damaged: "
            "download it again"
        )
    if dora_axis({role: tuple(t.shape) for role, t in own.items()}) not in (None, OUT):
        return None
    if "mid" in own:
        a = torch.einsum("pq...,qi->pi...", own["mid"].float(), a.flatten(1).float()).contiguous()
    if "scalar" in own:
        b = b.float() * own["scalar"].item()
    found = {"A": a, "B": b}
    if "alpha" in own:
        found["alpha"] = own["alpha"]
    magnitude = own.get("magnitude", own.get("dora_scale"))
    if magnitude is None:
        return found
    if magnitude.numel() != b.shape[0]:
        raise LoraError(
            f"{path}: {name}: {magnitude.numel()} magnitudes for {b.shape[0]} outputs; the file is "
            "damaged: download it again"
        )
    shape = [1, -1, 1, 1] if a.ndim > 2 else [-1]  # as peft has them
    return {**found, "magnitude": magnitude.reshape(shape)}


def _update(layer: FileLayer, own: Mapping[str, Tensor], alpha: Any, of_peft: bool) -> LayerUpdate:
    numbers = {role: float(own[role].item()) for role in _NUMBERS & own.keys()}
    kept = {role: value for role, value in own.items() if role not in _NUMBERS}
    if "oft_scaled" in own:
        kept["oft_scaled"] = own["oft_scaled"]
    return LayerUpdate(
        kind=layer.kind,
        tensors=kept,
        alpha=numbers.get("alpha", None if alpha is None else float(alpha)),
        scalar=numbers.get("scalar", 1.0),
        on_input=bool(numbers.get("on_input", 0.0)) or of_peft,
    )


def _move_what_peft_does_not_hold(
    found: Sorted,
    part: str,
    layers: Mapping[str, FileLayer],
    taken: Mapping[tuple[str, str], str],
    alpha_of: Callable[[str, str], Any],
) -> None:
    """Make updates of DoRA layers beside others, and of a text encoder's.

    peft's adapter is a DoRA on all its layers or on none, and no file but peft's own holds one on
    a text encoder.
    """
    plain = found.parts[part]
    doras = [target for target, tensors in plain.items() if "magnitude" in tensors]
    is_text = part.startswith("text_encoder")
    if not doras or (len(doras) == len(plain) and not is_text):
        return
    for target in doras:
        tensors = plain.pop(target)
        alpha = tensors["alpha"].item() if "alpha" in tensors else alpha_of(part, target)
        found.updates.setdefault(part, {})[target] = LayerUpdate(
            kind=layers[taken[part, target]].kind,
            tensors={r: tensors[r] for r in ("A", "B", "magnitude")},
            alpha=None if alpha is None else float(alpha),
        )
