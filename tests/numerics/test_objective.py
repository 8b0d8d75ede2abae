"""Targets, weights and errors against numbers worked by hand and formulas in float64."""

import math
from functools import partial

import pytest
import torch

from sdlora.diffusion.noise_schedule import NoiseSchedule, velocity
from sdlora.diffusion.objective import Objective, per_sample_error
from sdlora.diffusion.weighting import debiased_weight, min_snr_weight


@pytest.mark.parametrize(
    ("snr", "prediction_type", "weight"),
    [
        (10.0, "epsilon", 0.5),  # 5 / 10
        (10.0, "v_prediction", 5 / 11),  # 5 / (10 + 1), not 5 / 10 + 1
        (5.0, "epsilon", 1.0),
        (2.0, "epsilon", 1.0),  # below the cap nothing changes
        (4.0, "v_prediction", 0.8),  # 4 / (4 + 1)
        (0.0, "v_prediction", 0.0),  # zero-terminal SNR
        (10.0, "sample", 5.0),
        (2.0, "sample", 2.0),
        (0.0, "sample", 0.0),
        (1176.0, "epsilon", 5 / 1176),  # about the first step of Stable Diffusion
    ],
)
def test_min_snr_weight_by_hand(snr: float, prediction_type: str, weight: float) -> None:
    for dtype in (torch.float64, torch.float32):
        got = min_snr_weight(torch.tensor([snr], dtype=dtype), prediction_type, gamma=5.0)
        assert got.dtype == dtype
        assert got.item() == pytest.approx(weight, rel=4 * torch.finfo(dtype).eps, abs=0)


def test_min_snr_with_an_infinite_gamma_is_off_for_epsilon() -> None:
    snr = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
    assert min_snr_weight(snr, "epsilon", gamma=math.inf).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("gamma", [0.0, -5.0, math.nan])
def test_a_gamma_that_is_not_positive_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="min_snr_gamma="):
        min_snr_weight(torch.tensor([1.0]), "epsilon", gamma=gamma)


def test_an_unknown_prediction_type_is_refused() -> None:
    for weight in (partial(min_snr_weight, gamma=5.0), debiased_weight):
        with pytest.raises(ValueError, match="prediction_type=score: choose epsilon"):
            weight(torch.tensor([1.0]), "score")


def test_velocity_by_hand() -> None:
    # alpha = 0.8, sigma = 0.6, z_0 = 10, eps = 5: 0.8 * 5 - 0.6 * 10
    schedule = NoiseSchedule(torch.tensor([0.64]), "v_prediction")
    z_0, eps, t = torch.tensor([[10.0]]), torch.tensor([[5.0]]), torch.tensor([0])
    assert Objective(schedule).target(z_0, eps, t).item() == pytest.approx(-2.0, abs=1e-6)


def test_velocity_gives_back_image_and_noise() -> None:
    """With z_t and v a rotation of z_0 and eps, turning back must restore both (float64)."""
    angle = torch.linspace(0.01, 1.56, 7, dtype=torch.float64).view(-1, 1)
    signal, noise = angle.cos(), angle.sin()
    z_0, eps = torch.randn(7, 12, dtype=torch.float64), torch.randn(7, 12, dtype=torch.float64)
    z_t, v = signal * z_0 + noise * eps, velocity(z_0, eps, signal, noise)
    torch.testing.assert_close(signal * z_t - noise * v, z_0, rtol=0, atol=1e-14)
    torch.testing.assert_close(noise * z_t + signal * v, eps, rtol=0, atol=1e-14)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_target_against_diffusers(prediction_type: str) -> None:
    from diffusers import DDPMScheduler

    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    schedule = NoiseSchedule.from_config(config, prediction_type)
    z_0, eps, t = torch.randn(6, 4, 8, 8), torch.randn(6, 4, 8, 8), torch.arange(0, 1000, 180)
    target = Objective(schedule).target(z_0, eps, t)
    theirs = {
        "epsilon": eps,
        "sample": z_0,
        "v_prediction": DDPMScheduler.from_config(config).get_velocity(z_0, eps, t),
    }
    # the same float32 formula; only the order of roundings may differ
    torch.testing.assert_close(target, theirs[prediction_type], rtol=1e-6, atol=1e-6)


def test_per_sample_error_by_hand() -> None:
    prediction = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 6.0]]])
    target = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    # (4 + 16) / 4 and 36 / 4
    assert per_sample_error(prediction, target).tolist() == [5.0, 9.0]


def test_per_sample_error_is_float32_whatever_comes_in() -> None:
    prediction = torch.full((1, 10_000), 1.0).half()
    target = torch.full((1, 10_000), 301.0).half()  # 300**2 overflows float16
    error = per_sample_error(prediction, target)
    assert error.dtype == torch.float32
    assert error.item() == pytest.approx(90_000.0, rel=1e-6)


@pytest.mark.parametrize(
    ("prediction_type", "gamma", "expected"),
    [
        # errors 4 and 1, SNR 9 and 0.25
        ("epsilon", math.inf, (4 + 1) / 2),
        ("epsilon", 5.0, (5 / 9 * 4 + 1 * 1) / 2),
        ("v_prediction", 5.0, (5 / 10 * 4 + 0.25 / 1.25 * 1) / 2),
        ("v_prediction", math.inf, (4 + 1) / 2),
    ],
)
def test_the_loss_weighs_each_sample_and_then_takes_the_mean(
    prediction_type: str, gamma: float, expected: float
) -> None:
    schedule = NoiseSchedule(torch.tensor([0.9, 0.2]), prediction_type)
    prediction = torch.stack([torch.full((4, 2, 2), 2.0), torch.full((4, 2, 2), -1.0)])
    weight = None if math.isinf(gamma) else partial(min_snr_weight, gamma=gamma)
    loss = Objective(schedule, weight).loss(
        prediction, torch.zeros(2, 4, 2, 2), torch.tensor([0, 1])
    )
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_mask_makes_the_weighted_mean_over_its_pixels() -> None:
    prediction = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]] * 2, [[[0.0, 0.0], [0.0, 6.0]]] * 2])
    mask = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.25]]]])
    error = per_sample_error(prediction, torch.zeros(2, 2, 2, 2), mask)
    # (1 * 1 + 0.5 * 4) / 1.5, and 36 whatever the only weight is
    assert error.tolist() == [2.0, 36.0]
    nothing = per_sample_error(prediction, torch.zeros(2, 2, 2, 2), torch.zeros(2, 1, 2, 2))
    assert nothing.tolist() == [0.0, 0.0]


def test_sample_weights_multiply_each_samples_loss() -> None:
    schedule = NoiseSchedule(torch.tensor([0.9, 0.2]), "epsilon")
    prediction = torch.stack([torch.full((4, 2, 2), 2.0), torch.full((4, 2, 2), -1.0)])
    weights = torch.tensor([0.5, 3.0])
    loss = Objective(schedule).loss(
        prediction, torch.zeros(2, 4, 2, 2), torch.tensor([0, 1]), weights
    )
    assert loss.item() == (0.5 * 4 + 3 * 1) / 2
