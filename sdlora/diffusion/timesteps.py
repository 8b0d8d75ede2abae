"""Distributions of training noise levels, by their inverse: one uniform draw -> one level."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sdlora.diffusion.schedule import Schedule

Shift = Callable[[int], float]
"""Image tokens of a picture -> the factor k by which its noise levels are shifted."""

Points = tuple[tuple[int, float], tuple[int, float]]
"""Two points (image tokens, mu), between and beyond which mu is a straight line."""


def uniform(u: Tensor) -> Tensor:
    """The draw itself: all timesteps are equally likely."""
    return u


def logit_normal(u: Tensor, *, mean: float, std: float) -> Tensor:
    """Draws whose logit is normal: the middle of the range more often than its ends.

    Args:
        u: Uniform in [0, 1), shape ``[B]``, float64.
        mean: Mean of the logit; above 0 noisier timesteps are more likely, as in the paper.
        std: Standard deviation of the logit, > 0.

    Returns:
        Places in [0, 1), shape ``[B]``: ``sigmoid(mean + std * Phi^-1(u))``.

    Source:
        Esser et al. 2024, arXiv:2403.03206, section 3.1. diffusers'
        ``compute_density_for_timestep_sampling`` draws from the same distribution.
    """
    return torch.sigmoid(mean + std * torch.special.ndtri(u))


def mode(u: Tensor, *, scale: float) -> Tensor:
    """Draws around the middle, or around both ends, by an explicit density without tails at 0.

    Args:
        u: Uniform in [0, 1), shape ``[B]``, float64.
        scale: Above 0 the middle more often, below 0 the ends; in [-1, 2 / (pi - 2)], where the map
            is monotonic. 1.29 in the paper's best run, 0 is uniform.

    Returns:
        Places in [0, 1), shape ``[B]``.

    Source:
        Esser et al. 2024, arXiv:2403.03206, eq. 20: ``1 - u - scale (cos^2(pi u / 2) - 1 + u)``,
        here of ``1 - u``, so that larger draws are noisier.
    """
    v = 1 - u
    return (u - scale * (torch.cos(math.pi / 2 * v).square() - 1 + v)).clamp(0, 1 - 2**-32)


def by_bins(u: Tensor, *, weights: tuple[float, ...]) -> Tensor:
    """Draws from equal bins of [0, 1), each with its own likelihood and uniform inside.

    Args:
        u: Uniform in [0, 1), shape ``[B]``, float64.
        weights: Likelihood of each bin, >= 0 with a sum > 0; only ratios matter. The first bin has
            the least noise.

    Returns:
        Places in [0, 1), shape ``[B]``.
    """
    share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    ends = share.cumsum(0)
    bins = torch.searchsorted(ends, u, right=True)  # passes over bins of weight 0
    bins = bins.clamp(max=int(share.nonzero().max()))  # should rounding leave the last end below u
    inside = (u - (ends - share)[bins]) / share[bins]
    return (bins + inside.clamp(0, 1 - 2**-32)) / len(weights)


def shifted(place: Tensor, k: float) -> Tensor:
    """Places moved towards pure noise: ``k s / (1 + (k - 1) s)``; 1 leaves them.

    Args:
        place: In [0, 1), shape ``[B]``.
        k: Factor on the odds ``s / (1 - s)``, > 0.

    Source:
        Esser et al. 2024, arXiv:2403.03206, eq. 23.
    """
    return k * place / (1 + (k - 1) * place)


def by_tokens(num_tokens: int, *, points: Points) -> float:
    """The factor ``k = exp(mu)`` of a picture, with mu linear in its number of image tokens.

    Args:
        num_tokens: Image tokens that the transformer attends to, such as ``H / 16 * W / 16``.
        points: Two points of the line.

    Source:
        black-forest-labs/flux, sampling.py ``get_schedule``; diffusers' ``calculate_shift``.
    """
    (few, low), (many, high) = points
    return math.exp(low + (high - low) * (num_tokens - few) / (many - few))


@dataclass(frozen=True, slots=True)
class TimestepSampling:
    """The distribution of training noise levels.

    Attributes:
        place: Uniform draws -> places in [0, 1) of the range, both ``[B]``, float64.
        min_timestep: First of the range.
        max_timestep: First after the range; ``None``: the schedule's end.
        shift: Factor of the shift by the picture's image tokens; ``None``: not shifted.
    """

    place: Callable[[Tensor], Tensor] = uniform
    min_timestep: int = 0
    max_timestep: int | None = None
    shift: Shift | None = None

    def sample(self, noise: Schedule, u: Tensor, num_tokens: int = 0) -> Tensor:
        """Noise levels, ``[B]``, of the schedule ``noise``.

        Args:
            noise: The forward process.
            u: Uniform draws in [0, 1), ``[B]``.
            num_tokens: Image tokens of each picture; pictures of a batch have one size.
        """
        place = self.place(u.double())
        if self.shift is not None:
            place = shifted(place, self.shift(num_tokens))
        return noise.sample_timesteps(place, self.min_timestep, self.max_timestep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The parameters of the distributions; each takes its own.

    Attributes:
        logit_mean: Of ``logit_normal``.
        logit_std: Of ``logit_normal``.
        mode_scale: Of ``mode``.
        bin_weights: Of ``bins``.
    """

    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 0.0
    bin_weights: tuple[float, ...] = ()


def timestep_sampling(
    name: str,
    *,
    shape: Shape,
    min_timestep: int = 0,
    max_timestep: int | None = None,
    shift: Shift | None = None,
) -> TimestepSampling:
    """The distribution of that name: ``uniform``, ``logit_normal``, ``mode`` or ``bins``."""
    places: dict[str, Callable[[Tensor], Tensor]] = {
        "uniform": uniform,
        "logit_normal": partial(logit_normal, mean=shape.logit_mean, std=shape.logit_std),
        "mode": partial(mode, scale=shape.mode_scale),
        "bins": partial(by_bins, weights=shape.bin_weights),
    }
    return TimestepSampling(places[name], min_timestep, max_timestep, shift)
