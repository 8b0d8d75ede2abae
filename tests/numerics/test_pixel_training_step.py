"""A training step on pixels against its closed form, in float64, for a network of one weight."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sdlora.data.batches.dataset import Batch
from sdlora.data.pictures.decode import to_unit_range
from sdlora.diffusion.noise_schedule import NoiseSchedule
from sdlora.diffusion.objective import Objective
from sdlora.models.ddpm import UnconditionalDiffusion
from sdlora.runtime.randomness import normal, uniform
from sdlora.training.module import DiffusionModule

SEED, SIDE, WEIGHT = 7, 8, 0.75
SCHEDULE = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


class Scaled(nn.Module):
    """Predicts ``w x_t``."""

    conv_in = SimpleNamespace(weight=torch.zeros(()))  # whose dtype inputs are cast to

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(WEIGHT))

    def forward(self, x_t: Tensor, t: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.w * x_t)


def module_of(unet: Scaled) -> DiffusionModule:
    family = UnconditionalDiffusion(cast(Any, unet), SCHEDULE)
    unet.requires_grad_(True)
    unused = cast(Any, None)
    objective = Objective(NoiseSchedule.from_config(SCHEDULE))
    module = DiffusionModule(family, objective, unused, unused, SEED)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # no Trainer here
    return module


def batch_of(levels: Tensor, **given: Tensor) -> Batch:
    count = len(levels)
    return Batch(
        sample_index=torch.arange(40, 40 + count),
        picture_index=torch.arange(count),
        token_ids=torch.empty((count, 0), dtype=torch.int64),
        names=("a.png",) * count,
        weights=torch.ones(count),
        **given,
    )


def test_loss_and_gradient_are_those_of_the_formula() -> None:
    draws = torch.Generator().manual_seed(1)
    levels = torch.randint(0, 256, (4, 3, SIDE, SIDE), generator=draws, dtype=torch.uint8)
    index = torch.arange(40, 44)

    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float64))
    t = np.floor(uniform(SEED, "timestep", index).double().numpy() * 1000).astype(int)
    kept = alpha_bar[t][:, None, None, None]
    eps = normal((3, SIDE, SIDE), SEED, "noise", index).double().numpy()
    x_0 = levels.double().numpy() / 255 * 2 - 1
    x_t = np.sqrt(kept) * x_0 + np.sqrt(1 - kept) * eps
    error = WEIGHT * x_t - eps
    loss, gradient = np.mean(error**2), np.mean(2 * error * x_t)

    for given in ({"moments": levels}, {"pixels": to_unit_range(levels)}):
        unet = Scaled()
        found = module_of(unet).training_step(batch_of(levels, **given), 0)
        found.backward()
        assert unet.w.grad is not None
        # float32 against float64, over 768 numbers
        np.testing.assert_allclose(found.item(), loss, rtol=1e-5)
        np.testing.assert_allclose(unet.w.grad.item(), gradient, rtol=1e-5)
