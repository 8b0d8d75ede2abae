"""Degradation of clean drawings to look like generated ones: blur, noise, shift, colour."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def _blur(pixels: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(2.5 * sigma))
    x = torch.arange(-reach, reach + 1, dtype=pixels.dtype)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)  # [3, 1, 1, K]
    pixels = F.pad(pixels, (reach,) * 4, mode="replicate")
    pixels = F.conv2d(pixels, kernel, groups=3)
    return F.conv2d(pixels, kernel.transpose(2, 3), groups=3)


def _coarsen(pixels: Tensor, size: int) -> Tensor:
    small = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return F.interpolate(small, size=pixels.shape[-2:], mode="bicubic")


def _uniform(low: float, high: float, shape: tuple[int, ...], source: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=source)


def degrade(pixels: Tensor, source: Generator) -> Tensor:
    """Degrade pictures a little, each share of the batch in another way; a third stays sharp.

    Args:
        pixels: ``[B, 3, 64, 64]`` in [-1, 1].
        source: Source of random draws.

    Returns:
        New tensor of the same shape and range.
    """
    share = -(-len(pixels) // 6)
    parts = list(pixels.split(share))
    sigma = float(_uniform(0.5, 1.3, (1,), source))
    coarse = int(_uniform(24, 48, (1,), source))
    if len(parts) > 3:
        parts[2] = _blur(parts[2], sigma)
        parts[3] = _coarsen(parts[3], coarse)
    if len(parts) > 5:
        soft = _blur(parts[4], 0.7)
        parts[4] = soft + 0.06 * torch.randn(soft.shape, generator=source)
        coarse_noise = 0.12 * torch.randn((len(parts[5]), 3, 32, 32), generator=source)
        parts[5] = parts[5] + F.interpolate(coarse_noise, size=(64, 64), mode="bilinear")
    spoiled = torch.cat(parts)
    batch = len(spoiled)
    gain = _uniform(0.92, 1.08, (batch, 1, 1, 1), source)
    offset = _uniform(-0.06, 0.06, (batch, 3, 1, 1), source)
    dx, dy = torch.randint(-2, 3, (2,), generator=source).tolist()
    shifted = F.pad(spoiled * gain + offset, (2, 2, 2, 2), mode="replicate")
    return shifted[:, :, 2 + dy : 66 + dy, 2 + dx : 66 + dx].clamp(-1, 1)
