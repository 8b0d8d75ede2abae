"""Random draws as functions of (seed, purpose, index): nothing to save, nothing to restore."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed for one draw.

    Args:
        seed: The run's seed; 0 is a seed like any other.
        purpose: What the draw is for, e.g. ``"noise"``: two purposes never share numbers.
        index: Which draw of that purpose, e.g. the global sample index.
    """
    key = f"{seed}/{purpose}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator for one draw: the same numbers on every device and in every process."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, index))


def normal(shape: Sequence[int], seed: int, purpose: str, indices: Tensor) -> Tensor:
    """Standard normal draws, one generator for each sample.

    Args:
        shape: Shape of one sample.
        seed: The run's seed.
        purpose: What the draw is for.
        indices: Global sample indices, shape ``[B]``, int64.

    Returns:
        Shape ``[B, *shape]``, float32, on the CPU.
    """
    draws = [generator(seed, purpose, index) for index in indices.tolist()]
    return torch.stack([torch.randn(*shape, generator=g, dtype=torch.float32) for g in draws])


def uniform(seed: int, purpose: str, indices: Tensor) -> Tensor:
    """Uniform draws in [0, 1), one for each sample; shape ``[B]``, float32, on the CPU."""
    draws = [generator(seed, purpose, index) for index in indices.tolist()]
    return torch.stack([torch.rand((), generator=g, dtype=torch.float32) for g in draws])


def chance(seed: int, purpose: str, indices: Tensor, probability: float) -> Tensor:
    """Bernoulli draws of this probability, one for each sample; ``[B]``, bool, on the CPU."""
    if probability == 0.0:
        return torch.zeros(len(indices), dtype=torch.bool)
    return uniform(seed, purpose, indices) < probability
