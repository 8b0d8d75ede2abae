"""The training objective: prediction target, error and weight of each sample; pure tensors."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.diffusion.huber import Huber
from sdlora.diffusion.schedule import Schedule
from sdlora.diffusion.timesteps import TimestepSampling
from sdlora.diffusion.training_noise import TrainingNoise

Weight = Callable[[Tensor, str], Tensor]
"""SNR ``[B]`` and prediction type -> weights ``[B]``: a function of ``weighting.py``."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The training loss of a diffusion model: ``E_{t, eps} weight(t) error(prediction, target)``.

    Attributes:
        noise: The forward process, which knows the target.
        weight: Factor on each sample by its noise level; ``None``: 1.
        huber: Error function of each entry; ``None``: squared error.
        timesteps: Distribution of t.
        training_noise: Distribution of eps.
    """

    noise: Schedule
    weight: Weight | None = None
    huber: Huber | None = None
    timesteps: TimestepSampling = TimestepSampling()
    training_noise: TrainingNoise = TrainingNoise()

    def target(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The prediction target at ``z_t``; float32, shape ``[B, ...]``."""
        return self.noise.target(z_0, eps, t)

    def per_sample(
        self, prediction: Tensor, target: Tensor, t: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Weighted mean error of each sample, shape ``[B]``, float32.

        Args:
            prediction: Output of the model, shape ``[B, C, h, w]``.
            target: Prediction target, same shape.
            t: Timesteps, ``[B]``.
            mask: Factor on each latent pixel, ``[B, 1, h, w]``, in [0, 1]; ``None``: 1.
        """
        difference = prediction.float() - target.float()
        entries = difference.square()
        if self.huber is not None:
            entries = self.huber(difference, self.noise, t)
        error = masked_mean(entries, mask)
        if self.weight is None:
            return error
        return self.weight(self.noise.snr(t), self.noise.prediction_type) * error

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


def per_sample_error(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over all but the first dimension, float32, shape ``[B]``."""
    return masked_mean((prediction.float() - target.float()).square(), mask)


def masked_mean(error: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over all but the first dimension, shape ``[B]``.

    With a mask ``[B, 1, h, w]`` it is the weighted mean: a sample whose mask shows a small face
    counts as much as one without a mask. Where a mask is 0 everywhere, the mean is 0.
    """
    if mask is None:
        return error.flatten(1).mean(dim=1)
    weight = mask.float().expand_as(error)
    total = weight.flatten(1).sum(dim=1)
    return (error * weight).flatten(1).sum(dim=1) / total.clamp_min(torch.finfo(total.dtype).tiny)
