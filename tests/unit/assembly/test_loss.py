"""The typed config becomes the parts it names, and what a model's schedule forbids is refused."""

from typing import Any

import pytest
import torch

from sdlora.assembly.loss import check_objective, objective
from sdlora.commands.train.config_checks import check
from sdlora.config.rules import ConfigError
from sdlora.diffusion.huber import Huber
from sdlora.diffusion.objective import Objective
from sdlora.diffusion.training_noise import TrainingNoise
from sdlora.models.sd import StableDiffusion
from tests.composed import train_config
from tests.places import REPOSITORY

CONF = REPOSITORY / "conf"
EPSILON: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
V = {**EPSILON, "prediction_type": "v_prediction"}
SNR = torch.tensor([0.25, 4.0])


def built(family: StableDiffusion, *overrides: str) -> Objective:
    config = train_config(*overrides).objective
    family.change_noise_schedule(config.prediction_type, config.zero_terminal_snr)
    return objective(config, family)


def weights(made: Objective) -> list[float] | None:
    return None if made.weight is None else made.weight(SNR, made.noise.prediction_type).tolist()


def test_the_default_is_min_snr_with_squared_errors_and_plain_draws(
    family: StableDiffusion,
) -> None:
    made = built(family)
    assert weights(made) == [1.0, 1.0]
    assert made.weight is not None
    assert made.weight(torch.tensor([10.0]), "epsilon").tolist() == [0.5]  # gamma 5
    assert made.huber is None
    # what is off draws nothing, whatever the other numbers say
    assert made.training_noise == TrainingNoise()
    u = torch.rand(100)
    assert torch.equal(made.timesteps.sample(made.noise, u), made.noise.sample_timesteps(u))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["objective.min_snr_gamma=null"], None),
        (["objective.min_snr_gamma=2"], [1.0, 0.5]),
        (["objective=debiased"], [2.0, 0.5]),
        (["objective=p2"], [0.8, 0.2]),
        (["objective=p2", "objective.p2_gamma=0.5", "objective.p2_k=5"], [5.25**-0.5, 1 / 3]),
        (["objective=zero_terminal_snr"], None),
        (["objective.prediction_type=v_prediction"], [0.2, 0.8]),
        (["objective.prediction_type=sample"], [0.25, 4.0]),
    ],
)
def test_weights(
    family: StableDiffusion, overrides: list[str], expected: list[float] | None
) -> None:
    got = weights(built(family, *overrides))
    assert got == (None if expected is None else pytest.approx(expected))


def test_every_other_part(family: StableDiffusion) -> None:
    made = built(
        family,
        "objective.error.name=smooth_l1",
        "objective.error.threshold=0.3",
        "objective.error.schedule=exponential",
        "objective.noise.offset=0.05",
        "objective.noise.perturbation=0.2",
        "objective.timesteps.name=bins",
        "objective.timesteps.bin_weights=[0,1]",
        "objective.timesteps.min_timestep=100",
        "objective.timesteps.max_timestep=300",
    )
    assert made.huber == Huber(0.3, "exponential", smooth_l1=True)
    assert made.training_noise == TrainingNoise(offset=0.05, perturbation=0.2)
    t = made.timesteps.sample(made.noise, torch.tensor([0.0, 0.999]))
    assert t.tolist() == [200, 299]
    made = built(family, "objective.error.name=huber", "objective.timesteps.name=logit_normal")
    assert made.huber == Huber(0.1, "snr")
    u = torch.tensor([0.02, 0.5, 0.98])
    t = made.timesteps.sample(made.noise, u).tolist()
    assert t[1] == 500
    assert t[0] > 100
    assert t[2] < 900


def test_zero_terminal_snr_is_trained_and_sampled_alike(family: StableDiffusion) -> None:
    own = family.noise_schedule_config
    made = built(family, "objective=zero_terminal_snr")
    assert made.noise.prediction_type == "v_prediction"
    assert made.noise.alphas_cumprod[-1] == 0
    scheduler = family.pipeline().scheduler
    assert torch.equal(scheduler.alphas_cumprod, made.noise.alphas_cumprod)
    assert scheduler.config.prediction_type == "v_prediction"
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
    with family.own_noise_schedule():  # pictures of the bare base
        assert family.noise_schedule_config == own
        assert family.pipeline().scheduler.alphas_cumprod[-1] > 0
    assert family.noise_schedule_config["rescale_betas_zero_snr"]


@pytest.mark.parametrize(
    ("overrides", "schedule", "message"),
    [
        (
            ["objective.zero_terminal_snr=true"],
            EPSILON,
            "^objective.zero_terminal_snr=True: this model predicts epsilon, .*; set objective.pre",
        ),
        (
            ["objective.timesteps.max_timestep=1001"],
            V,
            "^objective.timesteps.max_timestep=1001: this model has 1000 timesteps",
        ),
        (
            ["objective.timesteps.min_timestep=1000"],
            V,
            "^objective.timesteps.min_timestep=1000: this model has 1000 timesteps",
        ),
        (
            ["objective.prediction_type=epsilon"],
            {**V, "rescale_betas_zero_snr": True},
            "^objective.prediction_type=epsilon: the noise schedule ends without signal",
        ),
        ([], {**EPSILON, "prediction_type": "flow"}, "^objective.prediction_type=flow: unknown"),
    ],
)
def test_what_the_models_schedule_forbids(
    overrides: list[str], schedule: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_objective(train_config(*overrides).objective, schedule)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["objective.prediction_type=sample"],
            "prediction_type=v_prediction and cannot teach pred",
        ),
        (["objective=zero_terminal_snr"], "rescale_betas_zero_snr=False and cannot teach rescale"),
    ],
)
def test_a_teacher_cannot_teach_what_it_never_did(overrides: list[str], message: str) -> None:
    config = train_config(*overrides).objective
    check_objective(config, V)
    with pytest.raises(ConfigError, match=f"^data.prior.mode=teacher: the base .*{message}"):
        check_objective(config, V, has_teacher=True)
    check_objective(train_config("objective.prediction_type=v_prediction").objective, V, True)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["objective.zero_terminal_snr=true"],
        ["objective=zero_terminal_snr"],
        ["objective.timesteps.max_timestep=1000", "objective.timesteps.min_timestep=999"],
    ],
)
def test_what_it_allows(overrides: list[str]) -> None:
    check_objective(train_config(*overrides).objective, V)


@pytest.mark.parametrize("sampler", ["heun", "pndm", "deis", "dpm2"])
def test_a_sampler_that_cannot_follow_zero_terminal_snr_is_refused(sampler: str) -> None:
    config = train_config("objective=zero_terminal_snr", f"sampling.sampler={sampler}")
    message = f"^sampling.sampler={sampler}: .* support schedules of zero.* ddim, ddpm, euler"
    with pytest.raises(ConfigError, match=message):
        check(config)
    check(train_config(f"sampling.sampler={sampler}"))
    check(train_config("objective=zero_terminal_snr"))


def test_so_is_one_that_cannot_follow_x0_prediction() -> None:
    x0 = "objective.prediction_type=sample"
    with pytest.raises(
        ConfigError, match="^sampling.sampler=euler_a: .*prediction_type=sample; set"
    ):
        check(train_config(x0, "sampling.sampler=euler_a"))
    check(train_config(x0))
