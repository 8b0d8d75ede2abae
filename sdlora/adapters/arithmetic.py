"""LoRA arithmetic: norms, smaller ranks, weighted sums, differences of weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.adapters.file_keys import Layers
from sdlora.adapters.layer_names import by_pattern
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.spec import LoraError, listing
from sdlora.runtime.progress import Progress

OVERSAMPLED = 16
"""Singular values that are found beyond those that are kept, for their precision."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A truncation of the singular values of a matrix.

    Attributes:
        r: Largest number of singular values to keep, >= 1; ``None``: no bound.
        keep: Keep at least this share of the sum of squared singular values, in (0, 1]; ``None``:
            no bound. With both, ``r`` wins.
        is_quick: Find the largest ``r`` singular values by random projections where these are few
            of all, which takes a tenth of the time.
    """

    r: int | None = None
    keep: float | None = None
    is_quick: bool = False

    def rank(self, singular_values: Tensor, total: float | None = None) -> int:
        """Number of the ``[K]`` descending singular values that are kept; at least 1.

        Args:
            singular_values: All of a matrix, or its largest.
            total: Sum of the squares of all; ``None``: these are all.
        """
        energy = singular_values.double().square().cumsum(0)
        whole = float(energy[-1]) if total is None else total
        rank = len(energy)
        if self.keep is not None and whole > 0:
            rank = int((energy < self.keep * whole).sum()) + 1
        return max(1, min(rank, len(energy), self.r or len(energy)))


@dataclass(frozen=True, slots=True)
class Energy:
    """Squared Frobenius norms before and after a truncation.

    Attributes:
        total: Squared norm before it.
        lost: Sum of the discarded squared singular values.
    """

    total: float = 0.0
    lost: float = 0.0

    def __add__(self, other: "Energy") -> "Energy":
        return Energy(self.total + other.total, self.lost + other.lost)

    @property
    def relative_error(self) -> float:
        """Frobenius norm of the lost part, relative to the whole; 0 for a zero matrix."""
        return (self.lost / self.total) ** 0.5 if self.total else 0.0


def update_norm(layer: Mapping[str, Tensor]) -> float:
    """Frobenius norm of a layer's update ``alpha / r * B @ A``, without forming it.

    ``|BA|^2`` is the trace of ``(B^T B)(A A^T)``, two matrices of the rank's size; in float64. A
    DoRA's magnitude is left out.
    """
    a, b = _matrices(layer)
    squared = ((b.T @ b) * (a @ a.T)).sum().clamp(min=0)
    return float(squared.sqrt() * abs(_scale(layer)))


def inner_product(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Frobenius inner product of the updates of two layers, without forming them, in float64.

    ``<B1 A1, B2 A2>`` is the sum of ``(B1^T B2) * (A1 A2^T)``. Magnitudes are left out.
    """
    (a1, b1), (a2, b2) = _matrices(one), _matrices(other)
    return float(((b1.T @ b2) * (a1 @ a2.T)).sum() * _scale(one) * _scale(other))


def scaled_layers(
    parts: Mapping[str, Layers], factors: Mapping[str, float]
) -> tuple[dict[str, Layers], list[str]]:
    """Layers with their updates times factors by pattern (see ``by_pattern``).

    Returns:
        For each part its layers, and the patterns that match no layer of any part.
    """
    found: dict[str, Layers] = {}
    unused = set(factors)
    for part, layers in parts.items():
        own, without = by_pattern(list(layers), factors)
        unused &= set(without)
        found[part] = {
            name: {**layer, "B": layer["B"] * own[name]} if name in own else dict(layer)
            for name, layer in layers.items()
        }
    return found, sorted(unused)


def resized_layer(layer: Mapping[str, Tensor], cut: Cut) -> tuple[dict[str, Tensor], Energy]:
    """The best approximation of an update by a smaller rank (Eckart-Young).

    The product is not formed: with ``B = Q R`` and ``A^T = P S`` (QR), the singular values of
    ``B A`` are those of the small ``R S^T``. The scale ``alpha / r`` stays, so alpha shrinks with
    the rank; the square roots of the singular values go into both matrices. A layer that loses
    nothing is returned unchanged, to the bit.

    Args:
        layer: ``A``, ``B``, ``alpha`` of one layer.
        cut: The truncation.

    Returns:
        The layer in float32, and the energy of its update before and after.
    """
    a, b = _matrices(layer)
    left, core_b = torch.linalg.qr(b)
    right, core_a = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(core_b @ core_a.T)
    rank, scale = cut.rank(s), _scale(layer)
    energy = Energy(_squares(scale * s), _squares(scale * s[rank:]))
    if rank >= a.shape[0]:
        return dict(layer), Energy(energy.total)
    root = s[:rank].sqrt()
    return {
        "A": _shaped((root[:, None] * vh[:rank]) @ right.T, layer["A"]),
        "B": _shaped((left @ u[:, :rank]) * root, layer["B"], is_b=True),
        "alpha": torch.tensor(scale * rank, dtype=torch.float64),
    }, energy


def resized(
    lora: LoraFile, cut: Cut, progress: Progress
) -> tuple[dict[str, Layers], dict[str, Energy]]:
    """:func:`resized_layer` of every layer; with ``cut.keep`` ranks may differ.

    Returns:
        For each part its layers, and the energy of its whole update.

    Raises:
        LoraError: If a part is a DoRA, whose magnitudes were trained for the old direction.
    """
    refuse_dora(lora, "its magnitudes were trained for the whole update, not for a truncated one")
    parts: dict[str, Layers] = {}
    energies: dict[str, Energy] = {}
    for part in lora.states:
        parts[part], energies[part] = {}, Energy()
        for name, layer in progress.track(lora.layers(part).items(), f"Resizing {part}"):
            parts[part][name], energy = resized_layer(layer, cut)
            energies[part] += energy
    return parts, energies


def difference_layer(difference: Tensor, cut: Cut) -> tuple[dict[str, Tensor], Energy]:
    """The nearest LoRA of a difference of weights, from its largest singular values.

    Args:
        difference: Tuned less base weight: ``[out, in]``, or ``[out, in, h, w]`` of a convolution.
        cut: The truncation.

    Returns:
        ``A`` and ``B`` with the square roots of the singular values in both, so that neither leaves
        the range of 16 bits; alpha is the rank, a scale of 1. And the energy of the difference.
    """
    matrix = difference.flatten(1).float()
    u, s, vh = _largest_singular_values(matrix, cut)
    has_all = len(s) == min(matrix.shape)
    rest = 0.0 if has_all else _rest(matrix, u, s, vh)
    total = _squares(s) + rest
    rank = cut.rank(s, total)
    root = s[:rank].sqrt()
    ones = [1] * (difference.ndim - 2)
    return {
        "A": (root[:, None] * vh[:rank]).reshape(rank, *difference.shape[1:]).contiguous(),
        "B": (u[:, :rank] * root).reshape(-1, rank, *ones).contiguous(),
        "alpha": torch.tensor(float(rank), dtype=torch.float64),
    }, Energy(total, _squares(s[rank:]) + rest)


def _rest(matrix: Tensor, u: Tensor, s: Tensor, vh: Tensor) -> float:
    """Squared norm of what the singular values that were found leave, in float64.

    Formed, since the small difference of two large sums would be their rounding.
    """
    return _squares(matrix.double() - (u.double() * s.double()) @ vh.double())


def _largest_singular_values(matrix: Tensor, cut: Cut) -> tuple[Tensor, Tensor, Tensor]:
    """``U S V^T`` with all singular values, or with some more than the cut keeps.

    Source:
        Halko, Martinsson and Tropp 2011, arXiv:0909.4061, as torch's ``svd_lowrank``.
    """
    if cut.r is None or not cut.is_quick or min(matrix.shape) < 4 * cut.r:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u, s, vh
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # its projections are drawn
        u, s, v = torch.svd_lowrank(matrix, q=cut.r + OVERSAMPLED, niter=4)
    return u, s, v.T


def added(loras: Sequence[LoraFile], weights: Sequence[float]) -> dict[str, Layers]:
    """The exact weighted sum of updates: concatenated matrices, whose rank is the sum of ranks.

    ``B = [w1 s1 B1, w2 s2 B2, ...]`` and ``A = [A1; A2; ...]`` give ``B A = sum of wi si Bi Ai``;
    alpha is the rank, a scale of 1.

    Args:
        loras: At least one; a layer need not be in all of them.
        weights: Finite, one for each.

    Returns:
        For each part its layers, in float32.

    Raises:
        LoraError: If a layer's shape differs between files, or one is a DoRA.
    """
    found: dict[str, dict[str, list[dict[str, Tensor]]]] = {}
    for lora, weight in zip(loras, weights, strict=True):
        refuse_dora(lora, "a sum of DoRAs is no DoRA: they scale whole weights")
        for part in lora.states:
            for name, layer in lora.layers(part).items():
                one = {"A": layer["A"].float(), "B": layer["B"].float() * weight * _scale(layer)}
                found.setdefault(part, {}).setdefault(name, []).append(one)
    wrong = [
        f"{part}.{name}: {', '.join(str([*t['B'].shape[:1], *t['A'].shape[1:]]) for t in terms)}"
        for part, layers in found.items()
        for name, terms in layers.items()
        if len({(t["B"].shape[0], t["A"].flatten(1).shape[1]) for t in terms}) > 1
    ]
    if wrong:
        raise LoraError(
            f"{len(wrong)} layers have different shapes in the files{listing(wrong)}\n"
            "They were made for different base models; add only LoRAs of one."
        )
    return {
        part: {name: _side_by_side(terms) for name, terms in layers.items()}
        for part, layers in found.items()
    }


def refuse_dora(lora: LoraFile, why: str) -> None:
    """Refuse DoRAs, for which the arithmetic does not hold.

    Raises:
        LoraError: If a part is a DoRA.
    """
    parts = [part for part, spec in lora.specs.items() if spec.use_dora]
    if parts:
        raise LoraError(f"a DoRA on {', '.join(parts)}: {why}; merge it into its base instead")


def _side_by_side(terms: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    widest = max(terms, key=lambda term: term["A"].ndim)  # a 1x1 convolution may be written flat
    kernel = widest["A"].shape[1:]
    a = torch.cat([term["A"].reshape(-1, *kernel) for term in terms])
    ones = [1] * (len(kernel) - 1)
    b = torch.cat([term["B"].flatten(1) for term in terms], dim=1)
    rank = a.shape[0]
    return {
        "A": a,
        "B": b.reshape(-1, rank, *ones),
        "alpha": torch.tensor(float(rank), dtype=torch.float64),
    }


def _matrices(layer: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """``A`` as ``[r, in * h * w]`` and ``B`` as ``[out, r]``, float64."""
    return layer["A"].flatten(1).double(), layer["B"].flatten(1).double()


def _scale(layer: Mapping[str, Tensor]) -> float:
    return layer["alpha"].item() / layer["A"].shape[0]


def _shaped(matrix: Tensor, like: Tensor, is_b: bool = False) -> Tensor:
    """``matrix`` in float32 with the kernel of ``like``."""
    kernel = like.shape[2:] if is_b else like.shape[1:]
    lead = matrix.shape if is_b else matrix.shape[:1]
    return matrix.float().reshape(*lead, *kernel).contiguous()


def _squares(values: Tensor) -> float:
    return float(values.double().square().sum())
