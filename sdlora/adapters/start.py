"""Initial values of the two matrices of an adapted layer: random, or from the layer's weight."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def drawn_start(shape: Sequence[int], init: str, draws: torch.Generator) -> Tensor:
    """A random matrix A, float32, on the CPU (B is zero).

    Args:
        shape: ``[r, in]`` or ``[r, in, k, k]``.
        init: ``"gaussian"``: N(0, 1/r^2); else Kaiming uniform with ``a = sqrt(5)``, as in torch's
            linear layers.
        draws: Generator of the random draws.
    """
    fresh = torch.empty(*shape, dtype=torch.float32, device="cpu")
    if init == "gaussian":
        return fresh.normal_(0.0, 1.0 / shape[0], generator=draws)
    return nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=draws)


def largest_rank(weight: Tensor) -> int:
    """Largest possible rank of a layer's weight."""
    return min(weight.shape[0], weight[0].numel())


def start_from_base(weight: Tensor, init: str, r: int, scale: float) -> tuple[Tensor, Tensor]:
    """Initial A and B from a weight W ``[out, in, ...]``, of a convolution as ``[out, in k k]``.

    PiSSA, from the largest singular values: with ``W = U S V^T``, ``A = sqrt(S_r / scale) V_r^T``
    and ``B = U_r sqrt(S_r / scale)``, so ``scale B A`` is the best approximation of W of rank r.
    OLoRA: with ``W = Q R``, ``A`` is the first r rows of R and ``B`` the first r columns of Q.
    Always on the CPU in float32, where the result is deterministic.

    Args:
        weight: Weight of the base layer, any float dtype and device.
        init: ``"pissa"`` or ``"olora"``.
        r: Rank, at most ``largest_rank(weight)``.
        scale: Scale of ``B A`` in the layer, > 0.

    Returns:
        A ``[r, in, ...]`` and B ``[out, r, ...]``, float32, on the CPU.

    Source:
        Meng et al. 2024, arXiv:2404.02948; Buyukakyuz 2024, arXiv:2406.01775; peft's ``pissa_init``
        and ``olora_init`` for linear layers.
    """
    flat = weight.detach().cpu().float().flatten(1)
    if init == "pissa":
        u, s, vh = torch.linalg.svd(flat, full_matrices=False)
        root = (s[:r] / scale).sqrt()
        a, b = root[:, None] * vh[:r], u[:, :r] * root
    else:
        q, triangle = torch.linalg.qr(flat)
        a, b = triangle[:r], q[:, :r]
    ones = [1] * (weight.ndim - 2)
    return a.reshape(r, *weight.shape[1:]).contiguous(), b.reshape(-1, r, *ones).contiguous()
