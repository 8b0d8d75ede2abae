"""Adapters of LoHa, LoKr and OFT between a model that trains them and files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sdlora.adapters.adapter_kinds import KINDS, oft_side
from sdlora.adapters.file_keys import clip_name
from sdlora.adapters.key_roles import role_of
from sdlora.adapters.layer_paths import CLIP_INSIDE
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.lora import adapted_layers, lora_state_dict
from sdlora.adapters.spec import LoraSpec
from sdlora.adapters.tuners import type_of
from sdlora.models.description import PartNames

KIND_OF = {"loha": "loha", "lokr": "lokr", "oft": "oft_r"}
"""``lora.type`` -> kind of its updates (:mod:`sdlora.adapters.adapter_kinds`)."""

TYPE_OF = {kind: name for name, kind in KIND_OF.items()}

SCALED = {"loha": "hada_w2_b", "lokr": "lokr_w1"}
"""Kind -> role of the matrix that a scale is multiplied into."""

_ENDS = {"oft_R": "oft_R.weight"}
"""Role -> end of its key, where that is not the role itself."""

Updates = dict[str, LayerUpdate]
"""Layer, in a text encoder without ``text_model.`` -> its update."""


_ROLES = {
    "loha": (frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),),
    "lokr": (frozenset({"lokr_w1", "lokr_w2"}), frozenset({"lokr_w1", "lokr_w2_a", "lokr_w2_b"})),
    "oft_r": (frozenset({"oft_R"}),),
}
"""Kind -> sets of roles that its tuner trains here: no cores, magnitudes, biases."""


def is_trained_here(updates: Mapping[str, LayerUpdate]) -> bool:
    """Whether a part's updates are what an adapter of one ``lora.type`` holds."""
    kinds = {each.kind.name for each in updates.values()}
    return len(kinds) == 1 and all(
        each.tensors.keys() in _ROLES.get(each.kind.name, ()) for each in updates.values()
    )


def spec_of(updates: Mapping[str, LayerUpdate]) -> LoraSpec:
    """The spec of an adapter that holds a part's updates.

    Of a LoKr it is one that has such factors, where one does: files do not say how it was asked
    for. Its scale is left out, since any alpha can hold it.

    Args:
        updates: By layer, of one type (:func:`is_trained_here`).
    """
    first = next(iter(updates.values()))
    ranks = {layer: each.kind.rank(each.shapes) for layer, each in updates.items()}
    found = [rank for rank in ranks.values() if rank is not None]
    lefts = {side for each in updates.values() for side in each.shapes.get("lokr_w1", ())}
    if first.kind.name == "lokr":
        whole = [each.shapes["lokr_w2"] for each in updates.values() if "lokr_w2" in each.shapes]
        r = found[0] if found else max(max(shape[:2]) for shape in whole)
        pattern: dict[str, int] = {}
    else:
        r = Counter(found or [1]).most_common(1)[0][0]
        pattern = {layer: rank for layer, rank in ranks.items() if rank not in (None, r)}
    return LoraSpec(
        r=r,
        alpha=float(r),
        dropout=0.0,
        targets=tuple(updates),
        rank_pattern=pattern,
        type=TYPE_OF[first.kind.name],
        decompose_factor=lefts.pop() if len(lefts) == 1 else -1,
        oft_block_size=oft_side(first.shapes["oft_R"][1]) if "oft_R" in first.tensors else 0,
    )


def state_shapes(updates: Mapping[str, LayerUpdate]) -> dict[str, tuple[int, ...]]:
    """Shapes of the state of an adapter that holds these updates, by raw peft key."""
    return {
        f"{layer}.{_ENDS.get(role, role)}": shape
        for layer, update in updates.items()
        for role, shape in update.shapes.items()
    }


def has_updates(module: nn.Module) -> bool:
    """Whether a part has an adapter that is no LoRA."""
    return type_of(module) not in (None, "lora")


def updates_of(module: nn.Module) -> Updates:
    """The adapter of a part as updates of its layers, on the CPU.

    Args:
        module: A part with an adapter that is no LoRA.
    """
    own = type_of(module)
    assert own is not None
    kind = next(each for each in KINDS if each.name == KIND_OF[own])
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, value in lora_state_dict(module).items():
        role = role_of(key)
        assert role is not None, key
        tensors.setdefault(role.layer, {})[role.name] = value
    found = {}
    for layer, (r, alpha) in adapted_layers(module).items():
        update = LayerUpdate(kind, tensors[layer])
        if kind.rank(update.shapes) is not None:
            update = replace(update, alpha=alpha)
        elif kind.name in SCALED:  # of two whole matrices: files know no alpha of these
            update = replace(update, scalar=alpha / r)
        found[layer.removeprefix(CLIP_INSIDE)] = update
    return found


def folded_update(update: LayerUpdate) -> LayerUpdate:
    """The same update with a scale of 1, in its matrices: it has one strength in every program."""
    return replace(
        update,
        tensors=_scaled(update, update.scale),
        alpha=None if update.alpha is None else _rank(update),
        scalar=1.0,
    )


def state_of(updates: Mapping[str, LayerUpdate], module: nn.Module) -> dict[str, Tensor]:
    """The state of a part's adapter that makes these updates, by raw peft key.

    Args:
        updates: By layer.
        module: The part, with an adapter of their type; its scales count.
    """
    scales = {
        name.removeprefix(CLIP_INSIDE): (name, alpha / r)
        for name, (r, alpha) in adapted_layers(module).items()
    }
    state = {}
    for layer, update in updates.items():
        name, scale = scales.get(layer.removeprefix(CLIP_INSIDE), (layer, 1.0))
        for role, tensor in _scaled(update, update.scale / scale).items():
            state[f"{name}.{_ENDS.get(role, role)}"] = tensor
    return state


def update_tensors(
    updates: Mapping[str, Mapping[str, LayerUpdate]],
    names: Mapping[str, PartNames],
    *,
    kohya: bool,
) -> dict[str, Tensor]:
    """Tensors of a file by key: LyCORIS' names, of OFT peft's as OneTrainer writes them.

    Args:
        updates: Part -> layer -> update, with a scale of 1.
        names: Names of the family's parts in files.
        kohya: Layers by kohya's names, as LyCORIS; else by the part and its layer in diffusers, as
            also of parts that kohya has no name for.

    Source:
        KohakuBlueleaf/LyCORIS ``modules`` (``weight_list``); Nerogar/OneTrainer ``LoRAModule.py``.
    """
    tensors: dict[str, Tensor] = {}
    for part, layers in updates.items():
        own = names[part]
        for layer, update in layers.items():
            name = clip_name(layer) if own.is_clip else layer
            stem = f"{part}.{name}"
            if kohya and own.kohya:
                inside = name if own.is_clip else own.layer(layer)
                stem = own.kohya[0] + inside.replace(".", "_")
            for role, tensor in update.tensors.items():
                tensors[f"{stem}.{_ENDS.get(role, role)}"] = tensor
            if kohya and own.kohya and update.kind.name in SCALED:
                tensors[f"{stem}.alpha"] = torch.tensor(_rank(update), dtype=torch.float32)
    return tensors


def _rank(update: LayerUpdate) -> float:
    """The alpha of a scale of 1; LyCORIS has one beside two whole matrices, too."""
    return float(update.kind.rank(update.shapes) or 1)


def _scaled(update: LayerUpdate, scale: float) -> dict[str, Tensor]:
    """Its tensors with a factor in one of them, which stays as it is where the factor is 1."""
    found = dict(update.tensors)
    if scale != 1.0:
        role = SCALED[update.kind.name]
        role = role if role in found else f"{role}_b"
        found[role] = found[role].float() * scale
    return found
