"""Formulas of the change of a weight by each kind of adapter, one small function a kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.adapters.adapter_kinds import IN, is_old_glora, oft_side

NEUMANN_TERMS = 5
"""Terms of the series that peft's and OneTrainer's OFT take for Cayley's transform."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers of an adapter beside its tensors.

    Attributes:
        scale: Factor of the product of its matrices.
        alpha: OFT's bound; ``None``: none.
        on_input: Whether IA3's factors are those of the inputs; whether ``oft_R`` turns the input
            of a convolution, as peft does, and not its weight.
    """

    scale: float
    alpha: float | None
    on_input: bool


class NoUpdateError(RuntimeError):
    """An adapter that is no change of its layer's weight; the message says why."""


def core_product(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The weight ``[out, in, ...]`` of a core ``[r, r, ...]``, ``up [out, r]``, ``down [r, in]``.

    Source:
        KohakuBlueleaf/LyCORIS, ``functional/general.py``.
    """
    return torch.einsum("pq...,op,qi->oi...", core, up.flatten(1), down.flatten(1))


def _lora(t: Mapping[str, Tensor], weight: Tensor, numbers: Numbers) -> Tensor:
    """``alpha / r * B A``, with a core between them in LoCon's CP form."""
    if "mid" in t:
        return numbers.scale * core_product(t["mid"], t["B"], t["A"])
    return numbers.scale * (t["B"].flatten(1) @ t["A"].flatten(1))


def _loha(t: Mapping[str, Tensor], weight: Tensor, numbers: Numbers) -> Tensor:
    """The product, number by number, of two low-rank matrices (arXiv:2108.06098)."""
    return numbers.scale * hadamard_half(t, 1) * hadamard_half(t, 2)


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


def _lokr(t: Mapping[str, Tensor], weight: Tensor, numbers: Numbers) -> Tensor:
    """The Kronecker product of two matrices, each whole or of low rank (arXiv:2309.14859).

    Two whole ones have no rank and so the scale 1, whatever LyCORIS' files say of alpha.
    """
    left = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    right = kronecker_right(t, weight, left.shape[1])
    left = left.reshape(*left.shape, *[1] * (right.ndim - 2))
    return numbers.scale * torch.kron(left, right.contiguous())


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


def _ia3(t: Mapping[str, Tensor], weight: Tensor, numbers: Numbers) -> Tensor:
    """A factor for each output or input (arXiv:2205.05638).

    LyCORIS stores the factor less 1 and which axis it is of; peft the factor, along its axis.
    """
    ones = [1] * (weight.ndim - 2)
    if "ia3_l" in t:
        return weight * (t["ia3_l"].reshape(*t["ia3_l"].shape[:2], *ones) - 1)
    shape = [1, -1, *ones] if numbers.on_input else [-1, 1, *ones]
    return weight * t["weight"].reshape(shape)


def _glora(t: Mapping[str, Tensor], weight: Tensor, numbers: Numbers) -> Tensor:
    """``W A + B`` with A and B of low rank (arXiv:2306.07967)."""
    a1, a2, b1, b2 = glora_matrices(t)
    if "bm" in t:
        added = core_product(t["bm"], b1, b2)
    else:
        added = in_shape(b1.flatten(1) @ b2.flatten(1), weight.shape)
    turned = torch.einsum("oi...,ir,rj->oj...", weight, a1, a2)
    return numbers.scale * (turned + added)


def glora_matrices(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``a1 [in, r]``, ``a2 [r, in]``, ``b1 [out, r, ...]``, ``b2 [r, in, ...]`` of a GLoRA.

    LyCORIS before 2.0 had the names of each pair exchanged.
    """
    shapes = {role: tuple(tensor.shape) for role, tensor in t.items()}
    first, second = ("2", "1") if is_old_glora(shapes) else ("1", "2")
    a1, a2 = t[f"a{first}"].flatten(1), t[f"a{second}"].flatten(1)
    return a1, a2, t[f"b{first}"], t[f"b{second}"]


def _oft(t: Mapping[str, Tensor], weight: Tensor, numbers: Numbers) -> Tensor:
    """Outputs turned by blocks (arXiv:2306.07280), in BOFT by stages of them (arXiv:2311.06243).

    alpha bounds the turn: the norm of its generators is at most alpha times the outputs.
    """
    blocks = t["oft_blocks"]
    generators = blocks - blocks.mT
    bound = (numbers.alpha or 0.0) * weight.shape[0]
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


def _oft_r(t: Mapping[str, Tensor], weight: Tensor, numbers: Numbers) -> Tensor:
    """Inputs (with the kernel) turned by blocks, stored as the numbers above the diagonal.

    Inputs of a linear layer are turned before it. The weight of a convolution is turned itself by
    OneTrainer, which is the other way round; peft turns its inputs, too.

    Raises:
        NoUpdateError: For peft's of a kernel of more than 1x1: it turns what it cuts out of the
            input and adds the overlaps up, which no turned weight does.

    Source:
        huggingface/peft ``tuners/oft/layer.py``; Nerogar/OneTrainer
        ``LoRAModule.py``, whose ``scaled_oft`` divides the numbers by ``2 sqrt(side - 1)``.
    """
    if numbers.on_input and max(weight.shape[2:], default=1) > 1:
        raise NoUpdateError(
            "peft's OFT of a convolution with a kernel, which no change of its weight gives; train "
            "it without this layer"
        )
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
    turn = turn if weight.ndim > 2 and not numbers.on_input else turn.mT
    turned = torch.einsum("okm,kmn->okn", flat.reshape(-1, number, side), turn)
    return turned.reshape(weight.shape) - weight


def _difference(t: Mapping[str, Tensor], weight: Tensor, numbers: Numbers) -> Tensor:
    return t["diff"] if "diff" in t else t["w_norm"]


def _nothing(t: Mapping[str, Tensor], weight: Tensor, numbers: Numbers) -> None:
    return None


UPDATES: dict[str, Callable[[Mapping[str, Tensor], Tensor, Numbers], Tensor | None]] = {
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


def with_length(weight: Tensor, t: Mapping[str, Tensor], axis: str | None) -> Tensor:
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


def in_shape(update: Tensor, shape: torch.Size) -> Tensor:
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
