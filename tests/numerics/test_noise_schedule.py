"""The noise schedule against closed forms in float64, and against diffusers' own scheduler."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from sdlora.diffusion.noise_schedule import NoiseSchedule

SD15: dict[str, Any] = {  # scheduler_config.json of Stable Diffusion 1.5
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


@pytest.fixture
def schedule() -> NoiseSchedule:
    return NoiseSchedule.from_config(SD15)


def alphas_cumprod(kind: str) -> np.ndarray:
    """``prod_s (1 - beta_s)`` in float64, as exp of a sum of logarithms: no running product."""
    s = np.arange(1000) / 999
    if kind == "scaled_linear":
        betas = (math.sqrt(0.00085) * (1 - s) + math.sqrt(0.012) * s) ** 2
    else:
        betas = 0.00085 * (1 - s) + 0.012 * s
    return np.exp(np.tril(np.ones((1000, 1000))) @ np.log1p(-betas))


@pytest.mark.parametrize("kind", ["scaled_linear", "linear"])
def test_alphas_cumprod_against_the_closed_form(kind: str) -> None:
    schedule = NoiseSchedule.from_config({**SD15, "beta_schedule": kind})
    assert schedule.num_train_timesteps == 1000
    assert schedule.alphas_cumprod.dtype == torch.float32
    # 1000 float32 products: each rounds by at most 2**-24, and the betas' roundings add as much
    np.testing.assert_allclose(schedule.alphas_cumprod, alphas_cumprod(kind), rtol=1.2e-4)


def test_alphas_cumprod_at_the_ends(schedule: NoiseSchedule) -> None:
    # by hand: 1 - 0.00085, and Lin et al. 2023 (arXiv:2305.08891), section 3.1: for Stable
    # Diffusion sqrt(alpha_bar_T) = 0.068265 and SNR(T) = 0.004682
    assert schedule.alphas_cumprod[0].item() == pytest.approx(0.99915, abs=1e-7)
    assert schedule.alphas_cumprod[-1].sqrt().item() == pytest.approx(0.068265, abs=5e-7)
    assert schedule.snr(torch.tensor([999])).item() == pytest.approx(0.004682, abs=5e-7)


def test_the_schedule_is_the_one_that_diffusers_samples_with(schedule: NoiseSchedule) -> None:
    from diffusers import DDIMScheduler, DDPMScheduler

    for scheduler in (DDPMScheduler, DDIMScheduler):
        theirs = scheduler.from_config(SD15)
        torch.testing.assert_close(schedule.alphas_cumprod, theirs.alphas_cumprod, rtol=0, atol=0)


def test_z_t_against_the_formula_in_float64(schedule: NoiseSchedule) -> None:
    z_0 = torch.randn(5, 4, 3, 2, dtype=torch.float64)
    eps = torch.randn_like(z_0)
    t = torch.tensor([0, 1, 250, 998, 999])
    alpha_bar = torch.from_numpy(alphas_cumprod("scaled_linear"))[t].view(5, 1, 1, 1)
    expected = alpha_bar.sqrt() * z_0 + (1 - alpha_bar).sqrt() * eps
    z_t = schedule.add(z_0, eps, t)
    assert z_t.dtype == torch.float32
    # 1 - alpha_bar_0 = 0.00085 is a difference of float32 numbers near 1, off by up to 2**-25:
    # half of 2**-25 / 0.00085 = 1.8e-5 in its root
    torch.testing.assert_close(z_t.double(), expected, rtol=0, atol=4e-5)


def test_z_t_equals_what_diffusers_adds(schedule: NoiseSchedule) -> None:
    from diffusers import DDPMScheduler

    z_0, eps, t = torch.randn(6, 4, 8, 8), torch.randn(6, 4, 8, 8), torch.arange(0, 1000, 180)
    theirs = DDPMScheduler.from_config(SD15).add_noise(z_0, eps, t)
    # the same float32 formula; only the order of roundings may differ
    torch.testing.assert_close(schedule.add(z_0, eps, t), theirs, rtol=1e-6, atol=1e-6)


def test_z_t_by_hand() -> None:
    schedule = NoiseSchedule(torch.tensor([0.64, 0.36]), "epsilon")
    z_0, eps = torch.tensor([[10.0], [10.0]]), torch.tensor([[5.0], [-5.0]])
    # 0.8 * 10 + 0.6 * 5 and 0.6 * 10 - 0.8 * 5
    torch.testing.assert_close(
        schedule.add(z_0, eps, torch.tensor([0, 1])).flatten(), torch.tensor([11.0, 2.0])
    )


def test_half_precision_latents_are_noised_in_float32(schedule: NoiseSchedule) -> None:
    z_0, eps = torch.randn(2, 4, 8, 8).bfloat16(), torch.randn(2, 4, 8, 8).bfloat16()
    t = torch.tensor([10, 900])
    z_t = schedule.add(z_0, eps, t)
    assert z_t.dtype == torch.float32
    torch.testing.assert_close(z_t, schedule.add(z_0.float(), eps.float(), t), rtol=0, atol=0)


def test_snr_by_hand() -> None:
    schedule = NoiseSchedule(torch.tensor([0.9, 0.5, 0.2, 0.0]), "v_prediction")
    expected = torch.tensor([9.0, 1.0, 0.25, 0.0])  # alpha_bar / (1 - alpha_bar)
    torch.testing.assert_close(schedule.snr(torch.arange(4)), expected, rtol=1e-6, atol=0)


def test_snr_against_float64(schedule: NoiseSchedule) -> None:
    alpha_bar = alphas_cumprod("scaled_linear")
    expected = alpha_bar / (1 - alpha_bar)
    assert expected[0] == pytest.approx(0.99915 / 0.00085)
    # rtol of alpha_bar (above) plus the cancellation in 1 - alpha_bar at small t
    np.testing.assert_allclose(schedule.snr(torch.arange(1000)), expected, rtol=2e-4)


def test_timesteps_are_uniform_over_all_levels(schedule: NoiseSchedule) -> None:
    uniform = torch.tensor([0.0, 0.0009, 0.0011, 0.5, 0.99999994])
    t = schedule.sample_timesteps(uniform)
    assert t.dtype == torch.int64
    assert t.tolist() == [0, 0, 1, 500, 999]
    draws = torch.rand(200_000, generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(schedule.sample_timesteps(draws), minlength=1000)
    assert len(counts) == 1000
    # chi-square with 999 degrees of freedom has mean 999 and deviation 44.7: five deviations
    assert abs(((counts - 200) ** 2 / 200).sum().item() - 999) < 5 * 44.7


def test_timesteps_of_a_range(schedule: NoiseSchedule) -> None:
    t = schedule.sample_timesteps(torch.tensor([0.0, 0.5, 0.99999994]), 200, 203)
    assert t.tolist() == [200, 201, 202]
    t = schedule.sample_timesteps(torch.tensor([0.0, 0.5, 0.99999994]), 998)
    assert t.tolist() == [998, 999, 999]


ZERO_TERMINAL = {**SD15, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def test_zero_terminal_snr() -> None:
    """Lin et al. 2023, algorithm 1, in float64: sqrt(alpha_bar) shifted to end at 0, then scaled to
    begin where it did."""
    rescaled = NoiseSchedule.from_config(ZERO_TERMINAL, "v_prediction")
    signal = np.sqrt(alphas_cumprod("scaled_linear"))
    expected = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    # diffusers goes back to betas and multiplies again in float32
    np.testing.assert_allclose(rescaled.alphas_cumprod, expected, rtol=4e-4, atol=1e-7)
    assert rescaled.alphas_cumprod[-1].item() == 0
    assert rescaled.alphas_cumprod[0].item() == pytest.approx(0.99915, abs=1e-6)
    assert (rescaled.alphas_cumprod.diff() < 0).all()
    last = torch.tensor([999])
    z_0, eps = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    assert torch.equal(rescaled.add(z_0, eps, last), eps)
    assert rescaled.snr(last).item() == 0


def test_what_has_no_signal_cannot_be_trained_to_find_the_noise() -> None:
    message = "^prediction_type=epsilon: .*use v_prediction or sample"
    with pytest.raises(ValueError, match=message):
        NoiseSchedule.from_config(ZERO_TERMINAL)
    assert NoiseSchedule.from_config(ZERO_TERMINAL, "sample").prediction_type == "sample"


def test_prediction_type_comes_from_the_config_unless_told() -> None:
    assert NoiseSchedule.from_config(SD15).prediction_type == "epsilon"
    v = {**SD15, "prediction_type": "v_prediction"}
    assert NoiseSchedule.from_config(v).prediction_type == "v_prediction"
    assert NoiseSchedule.from_config(v, "epsilon").prediction_type == "epsilon"
    with pytest.raises(ValueError, match="prediction_type=score.*epsilon, v_prediction, sample"):
        NoiseSchedule(torch.tensor([0.5]), "score")
