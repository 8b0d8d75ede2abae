"""Conditioning of prompts that may differ in length: kept, stacked and repeated without padding."""

from collections.abc import Sequence

import torch
from torch import Tensor

Conditioning = Tensor | tuple[Tensor, ...]
"""Embeddings of prompts: ``[B, rows, D]``, or, where their lengths differ, one ``[rows, D]`` each.

Both give one prompt's rows after the other when they are iterated."""


def stacked(prompts: Sequence[Tensor]) -> Conditioning:
    """One tensor of prompts ``[rows, D]`` if all have one length, else all of them."""
    if len({prompt.shape for prompt in prompts}) == 1:
        return torch.stack(list(prompts))
    return tuple(prompts)


def moved(conditioning: Conditioning, device: torch.device) -> Conditioning:
    """The conditioning on a device."""
    if isinstance(conditioning, Tensor):
        return conditioning.to(device)
    return tuple(prompt.to(device) for prompt in conditioning)


def repeated(conditioning: Conditioning, count: int) -> Conditioning:
    """The conditioning of one prompt, for ``count`` samples; nothing is copied."""
    if isinstance(conditioning, Tensor):
        return conditioning.expand(count, -1, -1)
    return conditioning * count
