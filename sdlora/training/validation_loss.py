"""Validation loss: squared error on fixed pictures, noise and timesteps, by noise level."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.diffusion.objective import Objective, per_sample_error
from sdlora.models.conditioning import repeated
from sdlora.models.family import Family
from sdlora.runtime.randomness import normal, uniform

NUM_BINS = 4
"""Number of equal ranges of timesteps; the first has the least noise."""


@dataclass(frozen=True, slots=True)
class FixedSet:
    """Captioned pictures that the loss is measured on.

    Attributes:
        moments: Posterior mean and log-variance of each picture, ``[2C, h, w]``; shapes may differ.
        token_ids: Token ids of each caption, ``[n, L]``, int64.
        sizes: Of each picture and its cut, as :class:`sdlora.data.batches.dataset.Batch` has them.
    """

    moments: Sequence[Tensor]
    token_ids: Tensor
    sizes: Tensor


class ValidationLoss:
    """Measures the loss on held-out pictures and on training pictures.

    Each picture is noised once in each quarter of the timesteps, always with the same noise, so
    that two states of a model differ only by what they learnt. The latents are the mean of the
    posterior. Whatever training does, timesteps are uniform, noise is plain, errors are squared and
    no weight is applied: numbers are comparable between runs of one prediction type and noise
    schedule.

    Args:
        family: The model, with its adapter if it has one.
        objective: Noise schedule and target.
        held_out: Held-out pictures.
        training: As many training pictures.
        seed: Seed of noise and timesteps.
        precision: Compute dtype.
    """

    def __init__(
        self,
        family: Family,
        objective: Objective,
        held_out: FixedSet,
        training: FixedSet,
        *,
        seed: int = 0,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self._family = family
        self._objective = objective
        self._held_out = held_out
        self._training = training
        self._seed = seed
        self._precision = precision

    def encode_prompts(self) -> None:
        """Encode all captions as :meth:`compute` will, where the model keeps them."""
        with self._in_precision():
            for pictures in (self._held_out, self._training):
                for ids in pictures.token_ids.split(1):
                    self._family.known_prompts(ids)

    def _in_precision(self) -> torch.autocast:
        low = self._precision != torch.float32
        return torch.autocast(self._family.device.type, dtype=self._precision, enabled=low)

    def compute(self) -> dict[str, float]:
        """The losses of the current weights; the training's random state is not changed.

        Returns:
            ``val/loss`` (mean over all), ``val/loss_q1`` to ``val/loss_q4`` (by quarter of the
            timesteps, from little noise to much) and ``val/gap``: the same mean on training
            pictures minus ``val/loss``; the further below 0, the more is learnt by heart.
        """
        with _evaluating(self._family):
            quarters = self._quarters(self._held_out)
            known = self._quarters(self._training).mean()
        values = {f"val/loss_q{number + 1}": float(q) for number, q in enumerate(quarters)}
        loss = float(quarters.mean())
        return {"val/loss": loss, **values, "val/gap": float(known) - loss}

    @torch.no_grad()
    def _quarters(self, pictures: FixedSet) -> Tensor:
        """Mean loss in each quarter of the timesteps, ``[4]``, float64."""
        device = self._family.device
        losses = torch.zeros(len(pictures.moments), NUM_BINS, dtype=torch.float64)
        with self._in_precision():
            for number, moments in enumerate(pictures.moments):
                ids = pictures.token_ids[number : number + 1]
                sizes = pictures.sizes[number : number + 1].to(device)
                losses[number] = self._errors(number, moments.to(device), ids, sizes).double().cpu()
        return losses.mean(dim=0)

    def _errors(self, number: int, moments: Tensor, token_ids: Tensor, sizes: Tensor) -> Tensor:
        """The error of one picture in each quarter, ``[4]``."""
        noise = self._objective.noise
        index = torch.arange(NUM_BINS) + number * NUM_BINS
        place = (torch.arange(NUM_BINS) + uniform(self._seed, "val/timestep", index)) / NUM_BINS
        t = noise.sample_timesteps(place).to(moments.device)
        mean = torch.zeros(1, *self._family.posterior_shape(moments[None]), device=moments.device)
        z_0 = self._family.latents(moments[None], mean)
        z_0 = z_0.expand(NUM_BINS, -1, -1, -1)
        eps = normal(z_0.shape[1:], self._seed, "val/noise", index).to(moments.device)
        prompt = repeated(self._family.known_prompts(token_ids), NUM_BINS)
        same_sizes = sizes.expand(NUM_BINS, -1)
        prediction = self._family.denoise(noise.add(z_0, eps, t), t, prompt, same_sizes)
        return per_sample_error(prediction, self._objective.target(z_0, eps, t))


@contextmanager
def _evaluating(family: Family) -> Iterator[None]:
    """Without dropout inside the block."""
    modes = [(module, module.training) for module in family.modules()]
    family.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
