"""The forward (noising) process: alphas, signal-to-noise ratio, timesteps; in float32."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class NoiseSchedule:
    """A discrete variance-preserving noise schedule.

    ``z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps`` (Ho et al. 2020, arXiv:2006.11239,
    eq. 4).

    Args:
        alphas_cumprod: ``alpha_bar_t`` for t = 0 .. T-1, shape ``[T]``, in (0, 1] or 0 at the end
            (zero-terminal SNR). Kept in float32, computed in whatever precision is given.
        prediction_type: What the model predicts: ``"epsilon"`` or ``"v_prediction"``.

    Raises:
        ValueError: If ``prediction_type`` is unknown.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str) -> None:
        if prediction_type not in PREDICTION_TYPES:
            known = ", ".join(PREDICTION_TYPES)
            raise ValueError(f"prediction_type={prediction_type}: unknown; choose one of {known}")
        self.alphas_cumprod = alphas_cumprod.float()
        self.prediction_type = prediction_type

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], prediction_type: str | None = None
    ) -> "NoiseSchedule":
        """Build the schedule that a diffusers ``scheduler_config.json`` describes.

        Args:
            config: The scheduler's config; its betas decide.
            prediction_type: Overrides the config's own.
        """
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(dict(config))
        return cls(
            scheduler.alphas_cumprod, prediction_type or str(scheduler.config["prediction_type"])
        )

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of noise levels."""
        return len(self.alphas_cumprod)

    def sample_timesteps(self, uniform: Tensor) -> Tensor:
        """Timesteps, int64, uniform over 0 .. T-1, from draws in [0, 1); both ``[B]``."""
        steps = (uniform.double() * self.num_train_timesteps).long()
        return steps.clamp_(max=self.num_train_timesteps - 1)

    def signal_and_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """``sqrt(alpha_bar_t)`` and ``sqrt(1 - alpha_bar_t)``, float32, broadcastable to ``like``.

        Args:
            t: Timesteps, shape ``[B]``, int64.
            like: A tensor whose first dimension is ``B``; gives device and number of dimensions.
        """
        alpha_bar = self.alphas_cumprod.to(like.device)[t].view(-1, *[1] * (like.dim() - 1))
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def add(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Noise ``z_0`` to level ``t`` (DDPM eq. 4), in float32; shapes ``[B, ...]``, ``[B]``."""
        signal, noise = self.signal_and_noise(t, z_0)
        return signal * z_0.float() + noise * eps.float()

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio ``alpha_bar / (1 - alpha_bar)``, shape ``[B]``, float32."""
        alpha_bar = self.alphas_cumprod.to(t.device)[t]
        return alpha_bar / (1 - alpha_bar)


PREDICTION_TYPES = ("epsilon", "v_prediction")


def rescale_to_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale ``sqrt(alpha_bar)`` so that the last one is 0 and the first stays.

    Args:
        alphas_cumprod: Shape ``[T]``.

    Returns:
        Shape ``[T]``, same dtype.

    Source:
        Lin et al. 2023, arXiv:2305.08891, algorithm 1.
    """
    signal = alphas_cumprod.sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    return torch.square((signal - last) * first / (first - last))
