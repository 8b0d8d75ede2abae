"""What the model is asked to predict, and how each sample's error is weighed; pure tensors."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.diffusion.noise_schedule import NoiseSchedule


@dataclass(frozen=True, slots=True)
class Objective:
    """The training loss of a diffusion model.

    Attributes:
        noise: The forward process; its ``prediction_type`` decides the target.
        min_snr_gamma: Cap of the min-SNR weight; ``inf`` weighs every sample by 1 (for epsilon).
    """

    noise: NoiseSchedule
    min_snr_gamma: float = math.inf

    def target(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the model should predict at ``z_t``; float32, shape ``[B, ...]``."""
        if self.noise.prediction_type == "epsilon":
            return eps.float()
        signal, noise = self.noise.signal_and_noise(t, z_0)
        return velocity(z_0.float(), eps.float(), signal, noise)

    def per_sample(
        self, prediction: Tensor, target: Tensor, t: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Weighted mean squared error of each sample, shape ``[B]``, float32.

        Args:
            prediction: Of the model, shape ``[B, C, h, w]``.
            target: What it should be, same shape.
            t: Timesteps, ``[B]``.
            mask: Factor on each latent pixel, ``[B, 1, h, w]``, in [0, 1]; ``None``: 1.
        """
        error = per_sample_error(prediction, target, mask)
        if math.isinf(self.min_snr_gamma):
            return error
        weight = min_snr_weight(self.noise.snr(t), self.min_snr_gamma, self.noise.prediction_type)
        return weight * error

    def loss(
        self,
        prediction: Tensor,
        target: Tensor,
        t: Tensor,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Mean of ``per_sample``, times the samples' ``weights`` ``[B]``, over the batch."""
        error = self.per_sample(prediction, target, t, mask)
        return (error if weights is None else error * weights).mean()


def velocity(z_0: Tensor, eps: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """The v-prediction target ``alpha_t eps - sigma_t z_0``.

    Args:
        z_0: Clean latents, shape ``[B, ...]``.
        eps: Noise, same shape.
        signal: ``alpha_t = sqrt(alpha_bar_t)``, broadcastable.
        noise: ``sigma_t = sqrt(1 - alpha_bar_t)``, broadcastable.

    Source:
        Salimans and Ho 2022, arXiv:2202.00512, section 4.
    """
    return signal * eps - noise * z_0


def per_sample_error(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over all but the first dimension, float32, shape ``[B]``.

    With a mask ``[B, 1, h, w]`` it is the mean weighted by it: a sample whose mask shows a small
    face counts as much as one that is trained whole. Where a mask is 0 everywhere, so is the error.
    """
    error = (prediction.float() - target.float()).square()
    if mask is None:
        return error.flatten(1).mean(dim=1)
    weight = mask.float().expand_as(error)
    total = weight.flatten(1).sum(dim=1)
    return (error * weight).flatten(1).sum(dim=1) / total.clamp_min(torch.finfo(total.dtype).tiny)


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weight each sample's loss by its signal-to-noise ratio, capped at ``gamma``.

    The weight for x0-prediction, ``min(snr, gamma)``, divided by the factor that turns an x0 error
    into an error of the predicted quantity: ``snr`` for epsilon, ``snr + 1`` for v.

    Args:
        snr: ``alpha_t**2 / sigma_t**2`` (a ratio, not decibels), shape ``[B]``; > 0 for epsilon,
            0 (zero-terminal SNR) is fine for v.
        gamma: The cap, > 0; 5 in the paper. ``inf`` switches it off for epsilon.
        prediction_type: ``"epsilon"`` or ``"v_prediction"``.

    Returns:
        Weights, shape ``[B]``, in ``snr``'s dtype and on its device.

    Raises:
        ValueError: If ``gamma`` is not positive or ``prediction_type`` is unknown.

    Source:
        Hang et al. 2023, arXiv:2303.09556.
    """
    if not gamma > 0:
        raise ValueError(f"min_snr_gamma={gamma}: must be > 0; 5 is the paper's, null is off")
    capped = torch.clamp(snr, max=gamma)
    if prediction_type == "epsilon":
        return capped / snr
    if prediction_type == "v_prediction":
        return capped / (snr + 1)
    raise ValueError(f"prediction_type={prediction_type}: choose epsilon or v_prediction")
