"""Each option of the objective in a training step: the loss it must give, and a resume of it."""

import copy
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdlora.diffusion.huber import Huber
from sdlora.diffusion.noise_schedule import NoiseSchedule, changed_schedule
from sdlora.diffusion.objective import Objective
from sdlora.diffusion.timesteps import TimestepSampling, by_bins, logit_normal
from sdlora.diffusion.training_noise import TrainingNoise
from sdlora.diffusion.weighting import debiased_weight, min_snr_weight, p2_weight
from sdlora.models.sd import StableDiffusion
from sdlora.runtime.randomness import normal, uniform
from sdlora.training.module import DiffusionModule
from tests.unit.tiny_training import (
    SEED,
    Stream,
    adapted,
    batch,
    diffusion_module,
    trainer,
    without_trainer,
)

SHAPE = (4, 8, 8)
SIZE = 3
INDEX = batch(0, SIZE).sample_index
PLAIN = normal(SHAPE, SEED, "noise", INDEX)
U = uniform(SEED, "timestep", INDEX).double()


def schedule(prediction_type: str = "epsilon", zero: bool = False) -> NoiseSchedule:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return NoiseSchedule.from_config(changed_schedule(betas, prediction_type, zero))


def trained(family: StableDiffusion, objective: Objective) -> DiffusionModule:
    module = diffusion_module(adapted(family))
    module.objective = objective
    return module


def entries(
    module: DiffusionModule,
    t: Tensor | None = None,
    eps: Tensor = PLAIN,
    seen: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Difference of prediction and target, and SNR, of the step written out; float64."""
    samples, noise = batch(0, SIZE), module.objective.noise
    t = (U * 1000).long() if t is None else t
    z_0 = module.latents(samples)
    alpha_bar = noise.alphas_cumprod[t].view(-1, 1, 1, 1)
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    with torch.no_grad():
        z_t = a * z_0 + s * (eps if seen is None else seen)
        prediction = module.family.denoise(z_t, t, module.conditioning(samples))
    targets = {"epsilon": eps, "v_prediction": a * eps - s * z_0, "sample": z_0}
    difference = (prediction - targets[noise.prediction_type]).double()
    return difference, (alpha_bar.double() / (1 - alpha_bar.double())).flatten()


def mean(entries: Tensor, weight: Tensor | float = 1.0) -> float:
    return (entries.mean(dim=(1, 2, 3)) * weight).mean().item()


def step(module: DiffusionModule) -> float:
    return without_trainer(module).training_step(batch(0, SIZE), 0).item()


PLAIN_OBJECTIVE = Objective(schedule())


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("zero", [False, True])
def test_weights(family: StableDiffusion, prediction_type: str, zero: bool) -> None:
    if zero and prediction_type == "epsilon":
        return  # refused by the schedule
    module = trained(family, Objective(schedule(prediction_type, zero)))
    difference, snr = entries(module)
    error = difference.square()
    assert step(module) == pytest.approx(mean(error), rel=1e-5)
    min_snr = snr.clamp(max=5.0) / {"epsilon": snr, "v_prediction": snr + 1}.get(
        prediction_type, 1.0
    )
    debiased = {"epsilon": snr**-0.5, "v_prediction": 1 / (snr + 1), "sample": snr**0.5}
    for weight, expected in (
        (partial(min_snr_weight, gamma=5.0), min_snr),
        (debiased_weight, debiased[prediction_type]),
        (partial(p2_weight, gamma=0.5, k=2.0), (2 + snr) ** -0.5),
    ):
        module.objective = replace(module.objective, weight=weight)
        # float32 in network and loss
        assert step(module) == pytest.approx(mean(error, expected), rel=2e-5)


@pytest.mark.parametrize("smooth_l1", [False, True])
def test_huber(family: StableDiffusion, smooth_l1: bool) -> None:
    module = trained(family, replace(PLAIN_OBJECTIVE, huber=Huber(0.1, "exponential", smooth_l1)))
    difference, _ = entries(module)
    c = (0.1 ** ((U * 1000).floor() / 1000)).view(-1, 1, 1, 1)
    error = 2 * ((difference.square() + c.square()).sqrt() - c) * (1.0 if smooth_l1 else c)
    assert step(module) == pytest.approx(mean(error), rel=1e-5)
    assert step(module) != pytest.approx(mean(difference.square()), rel=0.1)


def test_offset_and_pyramid_noise_are_what_the_model_is_to_find(family: StableDiffusion) -> None:
    offset = PLAIN + 0.3 * normal((4, 1, 1), SEED, "noise/offset", INDEX)
    pyramid = TrainingNoise(pyramid_iterations=6)
    cases = [(TrainingNoise(offset=0.3), offset), (pyramid, pyramid.eps(SHAPE, SEED, INDEX))]
    module = trained(family, PLAIN_OBJECTIVE)
    plain = step(module)
    for noise, eps in cases:
        module.objective = replace(PLAIN_OBJECTIVE, training_noise=noise)
        difference, _ = entries(module, eps=eps)
        assert step(module) == pytest.approx(mean(difference.square()), rel=1e-5)
        assert step(module) != plain


def test_perturbation_is_seen_and_not_to_be_found(family: StableDiffusion) -> None:
    module = trained(
        family, replace(PLAIN_OBJECTIVE, training_noise=TrainingNoise(perturbation=0.5))
    )
    seen = PLAIN + 0.5 * normal(SHAPE, SEED, "noise/perturbation", INDEX)
    difference, _ = entries(module, seen=seen)
    assert step(module) == pytest.approx(mean(difference.square()), rel=1e-5)
    known, _ = entries(module, eps=seen)
    assert step(module) != pytest.approx(mean(known.square()), rel=1e-2)


def test_timesteps(family: StableDiffusion) -> None:
    module = trained(family, PLAIN_OBJECTIVE)
    logits = math.sqrt(2) * torch.erfinv(2 * U - 1) * 0.5 + 1.0
    for timesteps, t in (
        (TimestepSampling(min_timestep=300, max_timestep=310), 300 + (U * 10).long()),
        (
            TimestepSampling(partial(logit_normal, mean=1.0, std=0.5)),
            (torch.sigmoid(logits) * 1000).long(),
        ),
        (TimestepSampling(partial(by_bins, weights=(0.0, 1.0))), 500 + (U * 500).long()),
    ):
        module.objective = replace(PLAIN_OBJECTIVE, timesteps=timesteps)
        difference, _ = entries(module, t)
        assert step(module) == pytest.approx(mean(difference.square()), rel=1e-5)


NOISY = TrainingNoise(offset=0.1, perturbation=0.1)
OPTIONS = {
    "debiased": replace(PLAIN_OBJECTIVE, weight=debiased_weight),
    "p2": replace(PLAIN_OBJECTIVE, weight=partial(p2_weight, gamma=1.0, k=1.0)),
    "huber": replace(PLAIN_OBJECTIVE, huber=Huber(0.1, "snr")),
    "smooth_l1": replace(PLAIN_OBJECTIVE, huber=Huber(0.1, smooth_l1=True)),
    "noise": replace(PLAIN_OBJECTIVE, training_noise=NOISY),
    "pyramid": replace(PLAIN_OBJECTIVE, training_noise=TrainingNoise(pyramid_iterations=6)),
    "logit_normal": replace(
        PLAIN_OBJECTIVE, timesteps=TimestepSampling(partial(logit_normal, mean=0.0, std=1.0))
    ),
    "sample": Objective(schedule("sample"), partial(min_snr_weight, gamma=5.0)),
    "zero-terminal v": Objective(
        schedule("v_prediction", zero=True),
        debiased_weight,
        Huber(0.1, "snr"),
        TimestepSampling(min_timestep=998),  # half of all samples have no signal at all
        NOISY,
    ),
}


def weights(module: DiffusionModule) -> dict[str, Tensor]:
    found = module.all_trained_parameters().items()
    return {name: parameter.detach().clone() for name, parameter in found}


def fitted(family: StableDiffusion, objective: Objective, folder: Path) -> dict[str, Tensor]:
    module = trained(copy.deepcopy(family), objective)
    trainer(folder, 2).fit(module, datamodule=Stream())
    return weights(module)


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_trains(name: str, family: StableDiffusion, tmp_path: Path) -> None:
    start = weights(trained(copy.deepcopy(family), PLAIN_OBJECTIVE))
    plain = fitted(family, PLAIN_OBJECTIVE, tmp_path)
    got = fitted(family, OPTIONS[name], tmp_path)
    assert all(value.isfinite().all() for value in got.values())
    for other in (start, plain):
        assert any(not torch.equal(got[key], other[key]) for key in got)


@pytest.mark.parametrize("name", ["noise", "pyramid", "zero-terminal v"])
def test_a_resumed_run_ends_bit_identical(
    name: str, family: StableDiffusion, tmp_path: Path
) -> None:
    adam = partial(diffusion_module, optimizer=torch.optim.Adam)

    def module() -> DiffusionModule:
        made = adam(adapted(copy.deepcopy(family)))
        made.objective = OPTIONS[name]
        return made

    whole, first, second = module(), module(), module()
    trainer(tmp_path, 4).fit(whole, datamodule=Stream())
    stopped = trainer(tmp_path, 2)
    stopped.fit(first, datamodule=Stream())
    stopped.save_checkpoint(tmp_path / "trainer.ckpt")
    torch.randn(11)
    trainer(tmp_path, 4).fit(
        second, datamodule=Stream(), ckpt_path=tmp_path / "trainer.ckpt", weights_only=True
    )
    expected = weights(whole)
    for key, value in weights(second).items():
        assert torch.equal(value, expected[key]), key
    assert any(not torch.equal(weights(first)[key], value) for key, value in expected.items())
