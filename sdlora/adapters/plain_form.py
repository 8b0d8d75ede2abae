"""Plain LoRA layers equal or nearest to updates of every kind: by their own factors, or by SVD."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sdlora.adapters.adapter_kinds import kind_of
from sdlora.adapters.arithmetic import Cut, Energy, difference_layer, resized_layer
from sdlora.adapters.file_keys import Layers, clip_name
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.lora_file import LoraFile, from_layers
from sdlora.adapters.spec import LoraError, listing
from sdlora.adapters.update_formulas import glora_matrices

SMALL = 64
"""Rank up to which a layer is written exactly, however small its weight is."""

KEEP = 0.999
"""Share of the squared singular values that an SVD keeps in each layer unless told otherwise."""

_OF_3X3 = re.compile(r"(?:^|\.)(?:conv[12]|conv_in|conv_out|(?:up|down)samplers\.\d\.conv)$")
"""Names of convolutions with kernels of 3, which LoHa and LoKr store flat."""

Factors = tuple[Tensor, Tensor]
"""``B [out, r]`` and ``A [r, in, ...]`` whose product is a matrix."""


@dataclass(slots=True)
class PlainForm:
    """A LoRA of plain layers alone.

    Attributes:
        lora: The LoRA.
        exact: Kind -> number of layers whose update is the same up to rounding.
        by_svd: Kind -> energy of the layers that an SVD approximates, before and after.
        not_held: What no plain LoRA holds, one line each: biases and norms.
    """

    lora: LoraFile
    exact: dict[str, int] = field(default_factory=dict)
    by_svd: dict[str, Energy] = field(default_factory=dict)
    not_held: list[str] = field(default_factory=list)


def plain_form(
    lora: LoraFile,
    cut: Cut | None = None,
    base: Mapping[str, nn.Module] | None = None,
    *,
    with_doras: bool = False,
) -> PlainForm:
    """The plain LoRA that is equal or nearest to a LoRA file's update.

    LoCon is one already, its CP core too; LoHa of rank r becomes rank r², LoKr the product of the
    ranks of its factors, GLoRA of linear layers twice its rank: all exactly. Where that would be
    more than the layer's own rank, and for the other kinds, the largest singular values are kept.

    Args:
        lora: A LoRA.
        cut: What an SVD keeps; ``None``: the share ``KEEP``.
        base: Parts of the base model by name, for kinds that are functions of its weights.
        with_doras: Whether DoRAs by outputs, which files can hold, become plain as well.

    Raises:
        LoraError: If a base is needed and not given.
    """
    if not lora.updates and not with_doras:
        return PlainForm(lora)
    found = PlainForm(lora)
    parts: dict[str, Layers] = {}
    needy = [] if base is not None else _needing_base(lora)
    if needy:
        raise LoraError(
            f"{len(needy)} layers have an update that is a function of the base's weights"
            f"{listing(needy)}\nGive the base, --base MODEL."
        )
    for part in lora.parts:
        plain, updates = _split(lora, part, with_doras)
        parts[part] = plain
        for layer, update in updates.items():
            weight = None if base is None else _weight(base, part, layer)
            made = _layer(update, weight, cut, found)
            if made is not None:
                parts[part][layer] = _with_kernel(layer, made, weight)
            found.not_held += _not_held(f"{part}.{layer}", update)
    metadata = lora.metadata
    plain_lora = from_layers("the plain form", parts, metadata, lora.layout)
    found.lora = replace(plain_lora, family=lora.family, left_out=lora.left_out)
    return found


def _split(lora: LoraFile, part: str, with_doras: bool) -> tuple[Layers, dict[str, LayerUpdate]]:
    """Plain layers of a part, and its other updates; among those a DoRA has to be one."""
    updates = dict(lora.updates.get(part, {}))
    plain = lora.layers(part) if part in lora.states else {}
    moves = bool(updates) or with_doras
    for layer in [name for name, tensors in plain.items() if moves and "magnitude" in tensors]:
        tensors = plain.pop(layer)
        alpha = tensors.pop("alpha").item()
        kind = kind_of(tensors)
        assert kind is not None
        updates[layer] = LayerUpdate(kind, tensors, alpha)
    return plain, updates


def _needing_base(lora: LoraFile) -> list[str]:
    return [
        f"{part}.{layer}: {update.title}"
        for part, updates in lora.updates.items()
        for layer, update in updates.items()
        if update.needs_base
    ]


def _weight(base: Mapping[str, nn.Module], part: str, layer: str) -> Tensor:
    if part not in base:
        raise LoraError(f"{part}: the base has no such part; give the base of this LoRA")
    module = base[part]
    name = clip_name(layer) if hasattr(module, "text_model") else layer
    weight = getattr(dict(module.named_modules()).get(name), "weight", None)
    if not isinstance(weight, Tensor):
        raise LoraError(f"{part}.{layer}: the base has no such layer; give the base of this LoRA")
    return weight


def _not_held(name: str, update: LayerUpdate) -> list[str]:
    bias = {"diff_b", "B_bias"} & update.tensors.keys()
    lines = [f"{name}: a norm"] if update.kind.name == "norm" else []
    return lines + [f"{name}: a bias" for _ in bias]


def _layer(
    update: LayerUpdate, weight: Tensor | None, cut: Cut | None, found: PlainForm
) -> dict[str, Tensor] | None:
    """The plain layer of an update; ``None`` for a norm or a bias."""
    if update.kind.name in ("norm", "bias"):
        return None
    factors = None if update.is_dora else _factors(update, weight)
    if factors is not None and (made := _exact(factors, update.scale, cut)) is not None:
        smaller, energy = (made, Energy()) if cut is None else resized_layer(made, cut)
        if energy.lost > 0.0:
            found.by_svd[update.title] = found.by_svd.get(update.title, Energy()) + energy
            return smaller
        found.exact[update.title] = found.exact.get(update.title, 0) + 1
        return made
    if weight is None:
        weight = _shape_of(update)
    change = update.change(weight).weight
    assert change is not None
    layer, energy = difference_layer(change, cut or Cut(keep=KEEP))
    found.by_svd[update.title] = found.by_svd.get(update.title, Energy()) + energy
    return layer


def _exact(factors: Factors, scale: float, cut: Cut | None) -> dict[str, Tensor] | None:
    """The layer of two factors, with its scale in B; ``None`` for one of too large a rank.

    Without a cut that is more than half of all: such a layer is larger than the weight itself.
    """
    b, a = factors
    rank, largest = b.shape[1], min(b.shape[0], a[0].numel())
    if rank > (largest if cut is not None or rank <= SMALL else largest / 2):
        return None
    return {
        "A": a.contiguous(),
        "B": (b * scale).reshape(*b.shape, *[1] * (a.ndim - 2)).contiguous(),
        "alpha": torch.tensor(float(rank), dtype=torch.float64),
    }


def _with_kernel(layer: str, made: dict[str, Tensor], weight: Tensor | None) -> dict[str, Tensor]:
    """A layer whose flat A gets the kernel of its weight, or of layers of its name in a U-Net."""
    a, b = made["A"], made["B"]
    if weight is not None:
        ones = [1] * (weight.ndim - 2)
        shaped = {"A": a.reshape(-1, *weight.shape[1:]), "B": b.reshape(*b.shape[:2], *ones)}
        return {**made, **shaped}
    if a.ndim > 2 or a.shape[1] % 9 or not _OF_3X3.search(layer):
        return made
    return {**made, "A": a.reshape(a.shape[0], -1, 3, 3), "B": b.reshape(*b.shape[:2], 1, 1)}


def _shape_of(update: LayerUpdate) -> Tensor:
    """A weight of the layer's shape, for updates that are no function of it."""
    if "diff" in update.tensors:
        return torch.zeros_like(update.tensors["diff"])
    outputs, inputs = update.kind.size(update.shapes)
    core = next((update.tensors[r] for r in ("hada_t1", "lokr_t2") if r in update.tensors), None)
    if core is None and "lokr_w2" in update.tensors:
        core = update.tensors["lokr_w2"]
    kernel = () if core is None else core.shape[2:]
    return torch.zeros(outputs or 1, inputs or 1, *kernel)


def _factors(update: LayerUpdate, weight: Tensor | None) -> Factors | None:
    """The factors of an update without its scale; ``None``: it has none of a low rank."""
    make = _FACTORS.get(update.kind.name)
    tensors = {role: tensor.float() for role, tensor in update.tensors.items()}
    return None if make is None else make(tensors, update, weight)


def _of_core(core: Tensor, up: Tensor, down: Tensor) -> Factors:
    return up.flatten(1), torch.einsum("pq...,qi->pi...", core, down.flatten(1))


def _lora(t: Mapping[str, Tensor], update: LayerUpdate, weight: Tensor | None) -> Factors:
    return _of_core(t["mid"], t["B"], t["A"]) if "mid" in t else (t["B"].flatten(1), t["A"])


def _loha(t: Mapping[str, Tensor], update: LayerUpdate, weight: Tensor | None) -> Factors:
    """``(B1 A1) * (B2 A2)``: every column of B1 times every one of B2, and so the rows of A."""
    halves = []
    for which in (1, 2):
        first, second = t[f"hada_w{which}_a"], t[f"hada_w{which}_b"]
        if f"hada_t{which}" in t:
            halves.append(_of_core(t[f"hada_t{which}"], first.T, second))
        else:
            halves.append((first.flatten(1), second))
    (b1, a1), (b2, a2) = halves
    b = torch.einsum("or,os->ors", b1, b2).flatten(1)
    return b, torch.einsum("r...,s...->rs...", a1, a2).flatten(0, 1)


def _lokr(t: Mapping[str, Tensor], update: LayerUpdate, weight: Tensor | None) -> Factors | None:
    """``(L1 L2) x (R1 R2) = (L1 x R1) (L2 x R2)``, x being Kronecker's product."""
    left = _with_identity(t["lokr_w1"]) if "lokr_w1" in t else (t["lokr_w1_a"], t["lokr_w1_b"])
    if "lokr_w2" in t:
        right = _with_identity(t["lokr_w2"])
    elif "lokr_t2" in t:
        right = _of_core(t["lokr_t2"], t["lokr_w2_a"].T, t["lokr_w2_b"])
    else:
        second = t["lokr_w2_b"]
        if weight is not None and second.ndim == 2 and weight.ndim > 2:  # its kernel is flat
            second = second.reshape(
                second.shape[0], weight.shape[1] // left[1].shape[1], *weight.shape[2:]
            )
        right = (t["lokr_w2_a"], second)
    ones = [1] * (right[1].ndim - 2)
    a = torch.kron(left[1].reshape(*left[1].shape, *ones), right[1].contiguous())
    return torch.kron(left[0].contiguous(), right[0].contiguous()), a


def _with_identity(matrix: Tensor) -> Factors:
    """A matrix (with a kernel) as the product with an identity of its shorter side."""
    outputs, rest = matrix.shape[0], matrix[0].numel()
    if outputs <= rest:
        return torch.eye(outputs, device=matrix.device), matrix
    identity = torch.eye(rest, device=matrix.device)
    return matrix.flatten(1), identity.reshape(rest, *matrix.shape[1:])


def _glora(t: Mapping[str, Tensor], update: LayerUpdate, weight: Tensor | None) -> Factors | None:
    """``W A1 A2 + B1 B2 = [W A1, B1] [A2; B2]``, of linear layers and 1x1 convolutions."""
    assert weight is not None
    if weight[0, 0].numel() > 1 or "bm" in t:
        return None
    a1, a2, b1, b2 = glora_matrices(t)
    b = torch.cat([weight.detach().float().flatten(1) @ a1, b1.flatten(1)], dim=1)
    a = torch.cat([a2, b2.flatten(1)])
    return b, a.reshape(*a.shape, *[1] * (weight.ndim - 2))


_FACTORS: dict[
    str, Callable[[Mapping[str, Tensor], LayerUpdate, Tensor | None], Factors | None]
] = {"lora": _lora, "loha": _loha, "lokr": _lokr, "glora": _glora}
