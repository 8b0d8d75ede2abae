"""Distributions of training timesteps, by their inverse: one uniform draw -> one timestep."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sdlora.diffusion.noise_schedule import NoiseSchedule


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


@dataclass(frozen=True, slots=True)
class TimestepSampling:
    """The distribution of training timesteps.

    Attributes:
        place: Uniform draws -> places in [0, 1) of the range, both ``[B]``, float64.
        min_timestep: First of the range.
        max_timestep: First after the range; ``None``: the schedule's end.
    """

    place: Callable[[Tensor], Tensor] = uniform
    min_timestep: int = 0
    max_timestep: int | None = None

    def sample(self, noise: NoiseSchedule, u: Tensor) -> Tensor:
        """Timesteps, ``[B]``, int64, of the schedule ``noise``, from uniform draws in [0, 1)."""
        return noise.sample_timesteps(self.place(u.double()), self.min_timestep, self.max_timestep)


def timestep_sampling(
    name: str,
    *,
    min_timestep: int,
    max_timestep: int | None,
    logit_mean: float,
    logit_std: float,
    bin_weights: tuple[float, ...],
) -> TimestepSampling:
    """The distribution of that name: ``uniform``, ``logit_normal`` or ``bins``."""
    places: dict[str, Callable[[Tensor], Tensor]] = {
        "uniform": uniform,
        "logit_normal": partial(logit_normal, mean=logit_mean, std=logit_std),
        "bins": partial(by_bins, weights=bin_weights),
    }
    return TimestepSampling(places[name], min_timestep, max_timestep)
