"""Timestep distributions against the standard library, scipy, diffusers and counting."""

import math
from dataclasses import fields
from statistics import NormalDist

import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling
from scipy.stats import chisquare, ks_2samp

from sdlora.diffusion.noise_schedule import NoiseSchedule
from sdlora.diffusion.timesteps import (
    Shape,
    TimestepSampling,
    by_bins,
    logit_normal,
    timestep_sampling,
)

SCHEDULE = NoiseSchedule(torch.linspace(0.999, 0.001, 1000), "epsilon")
ENDS = torch.tensor([0.0, 1 - 2**-24])  # the smallest and largest draw that torch.rand gives


def sampling(name: str, **changes: object) -> TimestepSampling:
    known = {field.name for field in fields(Shape)}
    shape = Shape(**{key: changes.pop(key) for key in known & changes.keys()})  # type: ignore[arg-type]
    return timestep_sampling(name, shape=shape, **changes)  # type: ignore[arg-type]


def draws(number: int) -> torch.Tensor:
    return torch.rand(number, generator=torch.Generator().manual_seed(4))


def test_uniform_is_what_the_schedule_draws() -> None:
    u = draws(1000)
    for made in (TimestepSampling(), sampling("uniform")):
        assert torch.equal(made.sample(SCHEDULE, u), SCHEDULE.sample_timesteps(u))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.7, 0.5), (1.5, 2.0)])
def test_logit_normal_against_the_standard_library(mean: float, std: float) -> None:
    u = [0.001, 0.02, 0.3, 0.5, 0.77, 0.999]
    expected = [1 / (1 + math.exp(-NormalDist(mean, std).inv_cdf(value))) for value in u]
    got = logit_normal(torch.tensor(u, dtype=torch.float64), mean=mean, std=std)
    assert got.tolist() == pytest.approx(expected, rel=1e-12)


def test_logit_normal_has_the_distribution_of_diffusers() -> None:
    """Two samples of 20 000: equal distributions pass with a probability of 0.999."""
    theirs = compute_density_for_timestep_sampling(
        "logit_normal", 20_000, 0.5, 0.8, generator=torch.Generator().manual_seed(1)
    )
    ours = logit_normal(draws(20_000).double(), mean=0.5, std=0.8)
    assert ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 1e-3
    # and the test would see a sign that is wrong
    assert ks_2samp(1 - ours.numpy(), theirs.numpy()).pvalue < 1e-9


def test_a_higher_logit_mean_is_noisier() -> None:
    u = draws(2000)
    means = [
        sampling("logit_normal", logit_mean=mean).sample(SCHEDULE, u).double().mean().item()
        for mean in (-1.0, 0.0, 1.0)
    ]
    assert means == sorted(means)
    assert means[1] == pytest.approx(500, abs=15)  # deviation 208 / sqrt(2000) = 4.7


def test_bins_by_hand() -> None:
    u = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.8, 0.9], dtype=torch.float64)
    # weights 1 : 3 : 1 are shares 0.2, 0.6, 0.2 of thirds of the range
    places = by_bins(u, weights=(1.0, 3.0, 1.0))
    expected = [0.0, 0.5 / 3, 1 / 3, 1.5 / 3, 2 / 3, 2.5 / 3]
    assert places.tolist() == pytest.approx(expected, abs=1e-12)


def test_bins_have_their_shares() -> None:
    weights = (0.0, 1.0, 2.0, 0.0, 5.0, 0.0)
    made = sampling("bins", bin_weights=weights, min_timestep=300, max_timestep=900)
    t = made.sample(SCHEDULE, draws(40_000)) - 300
    counts = torch.bincount(t // 100, minlength=6)
    assert counts[[0, 3, 5]].tolist() == [0, 0, 0]
    expected = [5_000, 10_000, 25_000]
    assert chisquare(counts[[1, 2, 4]].tolist(), expected).pvalue > 1e-3
    inside = torch.bincount(t)[400:500]
    assert chisquare(inside.tolist()).pvalue > 1e-3  # uniform in a bin


@pytest.mark.parametrize(
    ("name", "weights"), [("uniform", ()), ("logit_normal", ()), ("bins", (0.1, 0.2, 0.7, 0.0))]
)
@pytest.mark.parametrize(("low", "high"), [(0, None), (0, 1000), (200, 203), (999, None)])
def test_a_limited_range_is_kept_and_reached(
    name: str, weights: tuple[float, ...], low: int, high: int | None
) -> None:
    made = sampling(name, bin_weights=weights, min_timestep=low, max_timestep=high)
    t = made.sample(SCHEDULE, torch.cat([ENDS, draws(5000)]))
    assert t.dtype == torch.int64
    assert t.min() == low or name == "logit_normal"
    assert low <= int(t.min()) <= int(t.max()) < (high or 1000)
    if high == 203:
        assert set(t.tolist()) == ({200, 201, 202})
    assert made.sample(SCHEDULE, ENDS).tolist() == sorted(made.sample(SCHEDULE, ENDS).tolist())


def test_a_timestep_depends_on_its_own_draw_alone() -> None:
    u = draws(50)
    for made in (
        sampling("logit_normal", logit_mean=0.4),
        sampling("bins", bin_weights=(1.0, 0.0, 2.0)),
    ):
        alone = torch.cat([made.sample(SCHEDULE, one) for one in u.split(1)])
        assert torch.equal(alone, made.sample(SCHEDULE, u))
