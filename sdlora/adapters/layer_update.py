"""The change of a layer's weight and bias by an adapter of any kind, one small function a kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdlora.adapters.adapter_kinds import (
    IN,
    AdapterKind,
    dora_axis,
    is_old_glora,
    oft_side,
    title_of,
)

NEUMANN_TERMS = 5
"""Terms of the series that peft's and OneTrainer's OFT take for Cayley's transform."""


@dataclass(frozen=True, slots=True)
class Change:
    """The change of a layer.

    Attributes:
        weight: To be added to its weight, in float32; ``None``: the weight stays.
        bias: The same of its bias.
    """

    weight: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class LayerUpdate:
    """An adapter of one layer that is not a plain LoRA.

    Attributes:
        kind: Its kind.
        tensors: Role (:mod:`sdlora.adapters.key_roles`) -> tensor; single numbers are below.
        alpha: As its kind understands it: divided by the rank, or OFT's bound; ``None``: not said.
        scalar: LyCORIS' trained factor.
        on_input: Whether IA3's factors are those of the inputs.
    """

    kind: AdapterKind
    tensors: Mapping[str, Tensor]
    alpha: float | None = None
    scalar: float = 1.0
    on_input: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Role -> shape."""
        return {role: tuple(tensor.shape) for role, tensor in self.tensors.items()}

    @property
    def title(self) -> str:
        """The name of its kind and variant, for people."""
        return title_of(self.kind, self.shapes)

    @property
    def is_dora(self) -> bool:
        """Whether it sets the length of the changed weight's rows or columns."""
        return dora_axis(self.shapes) is not None

    @property
    def needs_base(self) -> bool:
        """Whether the change is a function of the layer's own weight."""
        return self.kind.of_base or self.is_dora

    @property
    def scale(self) -> float:
        """Factor of the product of its matrices: alpha over rank, and LyCORIS' trained factor."""
        rank = self.kind.rank(self.shapes)
        return self.scalar * (1.0 if self.alpha is None or rank is None else self.alpha / rank)

    def to(self, device: torch.device | str) -> "LayerUpdate":
        """The same on another device."""
        return replace(self, tensors={r: t.to(device) for r, t in self.tensors.items()})

    def norm(self) -> float | None:
        """Frobenius norm of the update of the weight, a DoRA's magnitudes left out.

        Returns:
            The norm; ``None`` if it is a function of the layer's own weight.
        """
        if self.kind.of_base:
            return None
        outputs, inputs = self.kind.size(self.shapes)
        shape = torch.zeros(outputs or 1, inputs or 1)
        tensors = {role: tensor.float() for role, tensor in self.tensors.items()}
        update = _UPDATES[self.kind.name](tensors, shape, self)
        return None if update is None else float(update.norm())

    def change(self, weight: Tensor) -> Change:
        """The change at strength 1.

        Args:
            weight: The layer's own weight, on the same device.

        Raises:
            RuntimeError: If the shapes do not fit.
        """
        tensors = {role: tensor.float() for role, tensor in self.tensors.items()}
        before = weight.detach().float()
        update = _UPDATES[self.kind.name](tensors, before, self)
        if update is not None:
            update = _in_shape(update, weight.shape)
            if self.is_dora:
                update = _with_length(before + update, tensors, dora_axis(self.shapes)) - before
        bias = tensors.get("diff_b", tensors.get("b_norm"))
        if "B_bias" in tensors:
            bias = self.scale * tensors["B_bias"]
        return Change(update, bias)


def core_product(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The weight ``[out, in, ...]`` of a core ``[r, r, ...]``, ``up [out, r]``, ``down [r, in]``.

    Source:
        KohakuBlueleaf/LyCORIS, ``functional/general.py``.
    """
    return torch.einsum("pq...,op,qi->oi...", core, up.flatten(1), down.flatten(1))


def _lora(t: Mapping[str, Tensor], weight: Tensor, update: LayerUpdate) -> Tensor:
    """``alpha / r * B A``, with a core between them in LoCon's CP form."""
    if "mid" in t:
        return update.scale * core_product(t["mid"], t["B"], t["A"])
    return update.scale * (t["B"].flatten(1) @ t["A"].flatten(1))


def _loha(t: Mapping[str, Tensor], weight: Tensor, update: LayerUpdate) -> Tensor:
    """The product, number by number, of two low-rank matrices (arXiv:2108.06098)."""
    return update.scale * hadamard_half(t, 1) * hadamard_half(t, 2)


def hadamard_half(t: Mapping[str, Tensor], which: int) -> Tensor:
    """One of the two matrices (with a core: weights of a convolution) of a LoHa.

    Args:
        t: Its tensors.
        which: 1 or 2.
    """
    first, second = t[f"hada_w{which}_a"], t[f"hada_w{which}_b"]
    if f"hada_t{which}" in t:
        return core_product(t[f"hada_t{which}"], first.T, second)
    return first.flatten(1) @ second.flatten(1)


def _lokr(t: Mapping[str, Tensor], weight: Tensor, update: LayerUpdate) -> Tensor:
    """The Kronecker product of two matrices, each whole or of low rank (arXiv:2309.14859).

    Two whole ones have no rank and so the scale 1, whatever LyCORIS' files say of alpha.
    """
    left = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    right = kronecker_right(t, weight, left.shape[1])
    left = left.reshape(*left.shape, *[1] * (right.ndim - 2))
    return update.scale * torch.kron(left, right.contiguous())


def kronecker_right(t: Mapping[str, Tensor], weight: Tensor, left_inputs: int) -> Tensor:
    """The right matrix of a LoKr, with the kernel of the layer.

    Args:
        t: Its tensors.
        weight: The layer's weight, for its shape.
        left_inputs: Columns of the left matrix.
    """
    if "lokr_w2" in t:
        return t["lokr_w2"]
    if "lokr_t2" in t:
        return core_product(t["lokr_t2"], t["lokr_w2_a"].T, t["lokr_w2_b"])
    product = t["lokr_w2_a"] @ t["lokr_w2_b"].flatten(1)
    return product.reshape(-1, weight.shape[1] // left_inputs, *weight.shape[2:])


def _ia3(t: Mapping[str, Tensor], weight: Tensor, update: LayerUpdate) -> Tensor:
    """A factor for each output or input (arXiv:2205.05638).

    LyCORIS stores the factor less 1 and which axis it is of; peft the factor, along its axis.
    """
    ones = [1] * (weight.ndim - 2)
    if "ia3_l" in t:
        return weight * (t["ia3_l"].reshape(*t["ia3_l"].shape[:2], *ones) - 1)
    shape = [1, -1, *ones] if update.on_input else [-1, 1, *ones]
    return weight * t["weight"].reshape(shape)


def _glora(t: Mapping[str, Tensor], weight: Tensor, update: LayerUpdate) -> Tensor:
    """``W A + B`` with A and B of low rank (arXiv:2306.07967)."""
    a1, a2, b1, b2 = glora_matrices(t)
    if "bm" in t:
        added = core_product(t["bm"], b1, b2)
    else:
        added = _in_shape(b1.flatten(1) @ b2.flatten(1), weight.shape)
    turned = torch.einsum("oi...,ir,rj->oj...", weight, a1, a2)
    return update.scale * (turned + added)


def glora_matrices(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``a1 [in, r]``, ``a2 [r, in]``, ``b1 [out, r, ...]``, ``b2 [r, in, ...]`` of a GLoRA.

    LyCORIS before 2.0 had the names of each pair exchanged.
    """
    shapes = {role: tuple(tensor.shape) for role, tensor in t.items()}
    first, second = ("2", "1") if is_old_glora(shapes) else ("1", "2")
    a1, a2 = t[f"a{first}"].flatten(1), t[f"a{second}"].flatten(1)
    return a1, a2, t[f"b{first}"], t[f"b{second}"]


def _oft(t: Mapping[str, Tensor], weight: Tensor, update: LayerUpdate) -> Tensor:
    """Outputs turned by blocks (arXiv:2306.07280), in BOFT by stages of them (arXiv:2311.06243).

    alpha bounds the turn: the norm of its generators is at most alpha times the outputs.
    """
    blocks = t["oft_blocks"]
    generators = blocks - blocks.mT
    bound = (update.alpha or 0.0) * weight.shape[0]
    if bound > 0:
        norm = generators.norm() + 1e-8
        generators = generators * (bound / norm).clamp(max=1.0)
    identity = torch.eye(blocks.shape[-1], device=blocks.device)
    turns = torch.linalg.solve(identity - generators, identity + generators)
    turned = _by_stages(turns, weight) if blocks.ndim == 4 else _by_blocks(turns, weight)
    if "rescale" in t:
        turned = turned * t["rescale"].reshape(-1, *[1] * (weight.ndim - 1))
    return turned - weight


def _by_blocks(turns: Tensor, weight: Tensor) -> Tensor:
    """Each block ``[s]`` of outputs times the transpose of its turn ``[s, s]``."""
    number, side, _ = turns.shape
    rows = weight.reshape(number, side, *weight.shape[1:])
    return torch.einsum("knm,kn...->km...", turns, rows).reshape(weight.shape)


def _by_stages(turns: Tensor, weight: Tensor) -> Tensor:
    """Butterfly: stage i turns blocks of outputs that lie ``2^i`` half blocks apart."""
    half = turns.shape[-1] // 2
    rows = weight.flatten(1)
    for stage, blocks in enumerate(turns):
        stride = 2**stage * half
        order = torch.arange(len(rows), device=rows.device).reshape(-1, 2, stride).mT.flatten()
        mixed = rows[order].reshape(*blocks.shape[:2], -1)
        turned = torch.einsum("kij,kjn->kin", blocks, mixed).reshape(rows.shape)
        rows = torch.empty_like(rows).index_copy(0, order, turned)
    return rows.reshape(weight.shape)


def _oft_r(t: Mapping[str, Tensor], weight: Tensor, update: LayerUpdate) -> Tensor:
    """Inputs (with the kernel) turned by blocks, stored as the numbers above the diagonal.

    Inputs of a linear layer are turned before it; the weight of a convolution is turned itself,
    the other way round.

    Source:
        huggingface/peft ``tuners/oft/layer.py`` (linear layers); Nerogar/OneTrainer
        ``LoRAModule.py``, whose ``scaled_oft`` divides the numbers by ``2 sqrt(side - 1)``.
    """
    stored = t["oft_R"]
    side = oft_side(stored.shape[1])
    if "oft_scaled" in t:
        stored = stored / (2 * (side - 1) ** 0.5)
    row, column = torch.triu_indices(side, side, 1)
    generators = stored.new_zeros(len(stored), side, side)
    generators[:, row, column] = stored
    generators = generators - generators.mT
    turn = torch.eye(side, device=stored.device) + 2 * generators
    power = generators
    for term in range(2, NEUMANN_TERMS):
        power = power @ generators
        turn = turn + (1 if term == NEUMANN_TERMS - 1 else 2) * power
    flat = weight.flatten(1)
    number = flat.shape[1] // side
    turn = turn.expand(number, side, side) if len(turn) == 1 else turn
    turn = turn if weight.ndim > 2 else turn.mT
    turned = torch.einsum("okm,kmn->okn", flat.reshape(-1, number, side), turn)
    return turned.reshape(weight.shape) - weight


def _difference(t: Mapping[str, Tensor], weight: Tensor, update: LayerUpdate) -> Tensor:
    return t["diff"] if "diff" in t else t["w_norm"]


def _nothing(t: Mapping[str, Tensor], weight: Tensor, update: LayerUpdate) -> None:
    return None


_UPDATES: dict[str, Callable[[Mapping[str, Tensor], Tensor, LayerUpdate], Tensor | None]] = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "ia3": _ia3,
    "glora": _glora,
    "oft": _oft,
    "oft_r": _oft_r,
    "full": _difference,
    "norm": _difference,
    "bias": _nothing,
}


def _with_length(weight: Tensor, t: Mapping[str, Tensor], axis: str | None) -> Tensor:
    """A weight whose outputs (or inputs) have the lengths of DoRA's magnitudes.

    The length of an output is over its inputs and kernel, that of an input over all outputs and
    the kernel (LyCORIS ``wd_on_out=False``, OneTrainer).
    """
    lengths = t.get("magnitude", t.get("dora_scale"))
    assert lengths is not None
    along = 1 if axis == IN else 0
    others = [dimension for dimension in range(weight.ndim) if dimension != along]
    norm = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    return weight * (lengths.reshape(norm.shape) / norm)


def _in_shape(update: Tensor, shape: torch.Size) -> Tensor:
    """An update in the shape of its weight: kernels may be flat, and 1x1 ones left out.

    Raises:
        RuntimeError: If outputs or inputs differ.
    """
    own, wanted = list(update.shape), list(shape)
    if own == wanted:
        return update
    flat = [wanted[0], torch.Size(wanted[1:]).numel()]
    bare = [size for size in own[:2]] if all(size == 1 for size in own[2:]) else own
    if bare != flat:
        raise RuntimeError(f"the update is {own}, the layer {wanted}")
    return update.reshape(shape)
