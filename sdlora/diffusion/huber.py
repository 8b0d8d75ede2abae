"""Pseudo-Huber and smooth L1 errors, with a threshold by noise level."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.diffusion.schedule import Schedule

SCHEDULES = ("constant", "exponential", "snr")


@dataclass(frozen=True, slots=True)
class Huber:
    """The pseudo-Huber error ``2 c (sqrt(d**2 + c**2) - c)``, or smooth L1: that over ``c``.

    Squared for differences ``d`` far below ``c`` (smooth L1: ``d**2 / c``), linear far above. These
    are kohya's and diffusers' two losses of these names, not ``torch.nn.HuberLoss``, which has a
    corner in its second derivative and half the size.

    Attributes:
        threshold: ``c``, > 0; 0.1 in kohya. With a schedule: its value at the noisiest end.
        schedule: ``constant``; ``exponential``: from 1 at t = 0 to ``c`` at T, ``c**(t / T)``;
            ``snr``: from 1 without noise to ``c`` without signal, ``(1 - c) / (1 + sigma)**2 + c``
            with ``sigma = sqrt((1 - alpha_bar) / alpha_bar)``.
        smooth_l1: Divide by ``c``.

    Raises:
        ValueError: If the threshold is not positive or the schedule is unknown.

    Source:
        Khrapov et al. 2024, arXiv:2403.16728 (scheduled pseudo-Huber); the rounding-safe form is
        ``d**2 / (sqrt(d**2 + c**2) + c)``, equal to ``sqrt(d**2 + c**2) - c``.
    """

    threshold: float
    schedule: str = "constant"
    smooth_l1: bool = False

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(f"threshold={self.threshold}: must be > 0; 0.1 is usual")
        if self.schedule not in SCHEDULES:
            known = ", ".join(SCHEDULES)
            raise ValueError(f"schedule={self.schedule}: unknown; choose one of {known}")

    def __call__(self, difference: Tensor, noise: Schedule, t: Tensor) -> Tensor:
        """The error of each entry, float32; ``difference`` is ``[B, ...]``, ``t`` ``[B]``."""
        c = self.thresholds(noise, t).to(difference.device)
        c = c.view(-1, *[1] * (difference.dim() - 1))
        square = difference.square()
        linear = square / ((square + c.square()).sqrt() + c)
        return 2 * linear if self.smooth_l1 else 2 * c * linear

    def thresholds(self, noise: Schedule, t: Tensor) -> Tensor:
        """``c`` of each sample, shape ``[B]``, float32."""
        c = torch.full((len(t),), self.threshold, device=t.device)
        if self.schedule == "exponential":
            return c ** noise.depth(t)
        if self.schedule == "snr":
            signal, sigma = noise.signal_and_noise(t, t)
            share = signal / (signal + sigma)  # 1 / (1 + sigma / signal), also without any signal
            return (1 - c) * share.square() + c
        return c
