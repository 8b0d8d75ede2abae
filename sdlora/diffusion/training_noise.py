"""The noise of a training step, drawn for each sample by its index."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sdlora.runtime.devices import send
from sdlora.runtime.randomness import generator, normal


@dataclass(frozen=True, slots=True)
class TrainingNoise:
    """Standard normal noise with optional offset, pyramid noise and input perturbation.

    Each part has draws of its own, so that switching one on does not change another.

    Attributes:
        offset: Standard deviation of offset noise, one draw per channel; 0: off. 0.1 in the source.
        pyramid_iterations: Levels of pyramid noise; 0: off. 6 in kohya.
        pyramid_discount: Factor from each level to the next, in (0, 1).
        perturbation: Standard deviation of noise that the model sees and need not predict; 0: off.
            0.1 in the paper.
    """

    offset: float = 0.0
    pyramid_iterations: int = 0
    pyramid_discount: float = 0.3
    perturbation: float = 0.0

    def eps(self, shape: Sequence[int], seed: int, indices: Tensor) -> Tensor:
        """The noise that the model learns to predict, ``[B, C, h, w]``, float32, on the CPU.

        Args:
            shape: Of one sample, ``(C, h, w)``.
            seed: The run's.
            indices: Global sample indices, ``[B]``, int64.

        Source:
            Offset: N. Guttenberg 2023, crosslabs.org, "Diffusion with offset noise".
        """
        eps = normal(shape, seed, "noise", indices)
        if self.offset:
            eps = eps + self.offset * normal((shape[0], 1, 1), seed, "noise/offset", indices)
        if self.pyramid_iterations:
            draws = [generator(seed, "noise/pyramid", index) for index in indices.tolist()]
            eps = torch.stack([self._pyramid(*pair) for pair in zip(eps, draws, strict=True)])
        return eps

    def perturbed(self, eps: Tensor, seed: int, indices: Tensor) -> Tensor:
        """``eps`` as it goes into ``z_t``: with the input perturbation, which no target contains.

        Source:
            Ning et al. 2023, arXiv:2301.11706, algorithm 1: ``eps + gamma xi``.
        """
        if not self.perturbation:
            return eps
        xi = normal(eps.shape[1:], seed, "noise/perturbation", indices)
        return eps + self.perturbation * send(xi, eps.device)

    def _pyramid(self, eps: Tensor, draws: torch.Generator) -> Tensor:
        """``eps`` of one sample plus coarser noise; ``[C, h, w]``, standard deviation 1.

        Level i has sides of 1 / r**i, r being drawn from [2, 4), is enlarged bilinearly and counts
        ``discount**i``; after a level with a side of 1 there is none. kohya's, except for the last
        line: it divides by the standard deviation of the whole batch, with which a sample's noise
        would depend on the other samples of its batch.

        Source:
            J. Whitaker 2023, "Multi-Resolution Noise for Diffusion Model Training" (wandb.ai).
        """
        channels, *sides = eps.shape
        for level in range(self.pyramid_iterations):
            r = 2 + 2 * float(torch.rand((), generator=draws))
            coarse = [max(1, int(side / r**level)) for side in sides]
            noise = torch.randn(1, channels, *coarse, generator=draws)
            eps = eps + self.pyramid_discount**level * interpolate(noise, sides, mode="bilinear")[0]
            if min(coarse) == 1:
                break
        return eps / eps.std()
