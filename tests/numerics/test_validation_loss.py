"""Validation loss against a reference of a few lines, and what it must leave alone."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdlora.diffusion.huber import Huber
from sdlora.diffusion.noise_schedule import NoiseSchedule
from sdlora.diffusion.objective import Objective
from sdlora.diffusion.timesteps import TimestepSampling
from sdlora.diffusion.training_noise import TrainingNoise
from sdlora.diffusion.weighting import debiased_weight, min_snr_weight
from sdlora.models.loading import load_family
from sdlora.models.sd import StableDiffusion
from sdlora.models.source import ModelSource
from sdlora.runtime.randomness import generator
from sdlora.training.validation_loss import FixedSet, ValidationLoss


@pytest.fixture(scope="module")
def family(random_base: Path) -> StableDiffusion:
    return load_family(ModelSource(path=str(random_base)), 0)


def pictures(family: StableDiffusion, shapes: list[tuple[int, int]], seed: int) -> FixedSet:
    draw = torch.Generator().manual_seed(seed)
    moments = [torch.randn(8, *shape, generator=draw) for shape in shapes]
    ids = family.tokenize([f"picture {n}" for n in range(len(shapes))]).ids
    return FixedSet(moments, ids, torch.zeros(len(shapes), 6))


def measured(family: StableDiffusion, prediction_type: str | None = None) -> ValidationLoss:
    noise = NoiseSchedule.from_config(family.noise_schedule_config, prediction_type)
    objective = Objective(noise, partial(min_snr_weight, gamma=5.0))
    held_out = pictures(family, [(8, 8), (8, 4), (8, 8)], 1)
    training = pictures(family, [(8, 8), (4, 8)], 2)
    return ValidationLoss(family, objective, held_out, training, seed=3)


def reference(family: StableDiffusion, fixed: FixedSet, v: bool) -> Tensor:
    """Written out: z_t = a z_0 + s eps; the target is eps, or a eps - s z_0; mean over pictures."""
    config = family.noise_schedule_config
    count = config["num_train_timesteps"]
    betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, count) ** 2
    alphas = torch.cumprod(1 - betas.double(), 0)
    errors = torch.zeros(len(fixed.moments), 4, dtype=torch.float64)
    for number, moments in enumerate(fixed.moments):
        z_0 = moments[:4].double() * family.vae.config.scaling_factor
        prompt = family.encode_prompts(fixed.token_ids[number : number + 1])
        for quarter in range(4):
            key = number * 4 + quarter
            u = torch.rand((), generator=generator(3, "val/timestep", key)).double()
            t = int((quarter + u) / 4 * count)
            eps = torch.randn(z_0.shape, generator=generator(3, "val/noise", key)).double()
            a, s = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
            with torch.no_grad():
                z_t = (a * z_0 + s * eps).float()[None]
                out = family.unet(z_t, torch.tensor([t]), prompt).sample[0].double()
            target = a * eps - s * z_0 if v else eps
            errors[number, quarter] = (out - target).square().mean()
    return errors.mean(dim=0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_losses_are_those_of_the_formulas(family: StableDiffusion, prediction_type: str) -> None:
    loss = measured(family, prediction_type)
    found = loss.compute()
    v = prediction_type == "v_prediction"
    quarters = reference(family, pictures(family, [(8, 8), (8, 4), (8, 8)], 1), v)
    known = reference(family, pictures(family, [(8, 8), (4, 8)], 2), v)
    # float32 in the network, other kernels for another batch size
    for number, quarter in enumerate(quarters.tolist()):
        assert found[f"val/loss_q{number + 1}"] == pytest.approx(quarter, rel=1e-4)
    assert found["val/loss"] == pytest.approx(quarters.mean().item(), rel=1e-4)
    gap = known.mean().item() - quarters.mean().item()
    assert found["val/gap"] == pytest.approx(gap, rel=1e-3, abs=1e-5)


def test_it_is_a_function_of_the_weights_alone(family: StableDiffusion) -> None:
    loss = measured(family)
    first = loss.compute()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    family.unet.train()
    assert loss.compute() == first
    assert torch.equal(torch.get_rng_state(), state)
    assert family.unet.training
    assert not family.vae.training
    family.eval()
    with torch.no_grad():
        family.unet.conv_out.bias.add_(0.5)
    assert loss.compute() != first
    with torch.no_grad():
        family.unet.conv_out.bias.sub_(0.5)


def test_no_option_of_the_training_loss_moves_it(family: StableDiffusion) -> None:
    """Uniform timesteps, plain noise, squared errors, no weight: numbers compare between runs."""
    loss = measured(family)
    expected = loss.compute()
    loss._objective = replace(
        loss._objective,
        weight=debiased_weight,
        huber=Huber(0.1),
        timesteps=TimestepSampling(min_timestep=500),
        training_noise=TrainingNoise(offset=0.5, perturbation=0.5),
    )
    assert loss.compute() == expected
    loss._objective = replace(
        loss._objective, training_noise=TrainingNoise(pyramid_iterations=6), weight=None
    )
    assert loss.compute() == expected


def test_noisier_quarters_are_easier_for_a_net_that_copies_its_input(
    family: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where z_t is nearly all noise, z_t itself predicts the noise well."""
    monkeypatch.setattr(family, "denoise", lambda z_t, t, prompt, sizes: z_t.float())
    found = measured(family, "epsilon").compute()
    quarters = [found[f"val/loss_q{number}"] for number in (1, 2, 3, 4)]
    assert quarters == sorted(quarters, reverse=True)
