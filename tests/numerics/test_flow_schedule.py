"""Flow matching against numbers worked by hand, diffusers' scheduler and published shifts."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.training_utils import compute_density_for_timestep_sampling
from scipy.integrate import quad
from scipy.stats import ks_2samp

from sdlora.diffusion.flow_schedule import FlowSchedule, token_points
from sdlora.diffusion.huber import Huber
from sdlora.diffusion.noise_schedule import NoiseSchedule
from sdlora.diffusion.objective import Objective
from sdlora.diffusion.schedule import schedule_of
from sdlora.diffusion.timesteps import Shape, by_tokens, mode, shifted, timestep_sampling
from sdlora.diffusion.weighting import bell_weight, table_weight

FLOW = FlowSchedule()
AS_TRAINED = ((256, 0.5), (4096, 1.15))  # BFL's numbers for FLUX
UP_TO_6400 = ((256, 0.5), (6400, 1.15))


def test_noising_and_target_by_hand() -> None:
    z_0, eps = torch.tensor([[2.0], [2.0], [2.0]]), torch.tensor([[-1.0], [-1.0], [-1.0]])
    s = torch.tensor([0.0, 0.25, 1.0])
    assert FLOW.add(z_0, eps, s).flatten().tolist() == [2.0, 1.25, -1.0]
    assert FLOW.target(z_0, eps, s).flatten().tolist() == [-3.0] * 3
    assert FLOW.snr(s).tolist() == [math.inf, 9.0, 0.0]


def test_half_precision_is_noised_in_float32() -> None:
    z_0, eps = torch.randn(2, 4, 8, 8).bfloat16(), torch.randn(2, 4, 8, 8).bfloat16()
    s = torch.tensor([0.1234567, 0.7654321])
    exact = (1 - s.double()).view(2, 1, 1, 1) * z_0.double() + s.double().view(2, 1, 1, 1) * eps
    assert FLOW.add(z_0, eps, s).dtype == FLOW.target(z_0, eps, s).dtype == torch.float32
    torch.testing.assert_close(FLOW.add(z_0, eps, s), exact.float(), rtol=1e-6, atol=1e-6)


def test_noising_is_that_of_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    number = torch.tensor([10, 500, 990])
    z_0, eps = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    theirs = scheduler.scale_noise(z_0, scheduler.timesteps[number], eps)
    torch.testing.assert_close(FLOW.add(z_0, eps, scheduler.sigmas[number]), theirs)


def test_an_euler_step_along_the_target_ends_at_the_data() -> None:
    z_0, eps, s = torch.randn(2, 3).double(), torch.randn(2, 3).double(), torch.tensor([0.3, 0.9])
    z_s = FLOW.add(z_0, eps, s)
    there = z_s - s[:, None] * FLOW.target(z_0, eps, s)
    torch.testing.assert_close(there, z_0.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("points", "factors"),
    [(AS_TRAINED, (1.88, 2.33, 3.16)), (UP_TO_6400, (1.79, 2.05, 2.48))],
)
def test_published_shifts_at_512_768_and_1024_px(
    points: tuple[tuple[int, float], tuple[int, float]], factors: tuple[float, ...]
) -> None:
    tokens = [(side // 16) ** 2 for side in (512, 768, 1024)]
    assert tokens == [1024, 2304, 4096]
    found = [by_tokens(n, points=points) for n in tokens]
    assert [round(k, 2) for k in found] == list(factors)


def test_the_shift_of_klein_while_drawing_is_a_line_too() -> None:
    """Of 50 steps; ``shift_points`` can say it."""
    few, many = (compute_empirical_mu(n, 50) for n in (256, 4096))
    found = [by_tokens(n, points=((256, few), (4096, many))) for n in (1024, 2304, 4096)]
    assert [round(k, 2) for k in found] == [5.48, 6.27, 7.56]


def test_a_constant_shift_by_hand_and_by_diffusers() -> None:
    """The table of a scheduler is shifted by 3 only if it does not shift by tokens."""
    own = torch.tensor([0.75, 0.5, 0.25])
    assert shifted(own, 3.0).tolist() == pytest.approx([0.9, 0.75, 0.5], abs=1e-7)
    number = [250, 500, 750]
    static = FlowMatchEulerDiscreteScheduler(shift=3.0)
    dynamic = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    assert static.sigmas[number].tolist() == pytest.approx([0.9, 0.75, 0.5], abs=1e-6)
    assert dynamic.sigmas[number].tolist() == pytest.approx([0.75, 0.5, 0.25], abs=1e-6)


def test_shifts_reach_the_drawn_levels() -> None:
    u = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    constant = timestep_sampling("uniform", shape=Shape(), shift=lambda tokens: 3.0)
    assert constant.sample(FLOW, u, 1024).tolist() == pytest.approx([0.5, 0.75, 0.9])
    by_size = timestep_sampling(
        "uniform", shape=Shape(), shift=lambda tokens: by_tokens(tokens, points=AS_TRAINED)
    )
    # k = exp(1.15) at 4096 tokens: s = k / (k + 1) at the middle
    assert by_size.sample(FLOW, u, 4096)[1].item() == pytest.approx(1 / (1 + math.exp(-1.15)))
    assert by_size.sample(FLOW, u, 256)[1].item() == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_a_range_holds_the_shifted_levels() -> None:
    limited = timestep_sampling(
        "logit_normal",
        shape=Shape(logit_mean=0.3),
        min_timestep=200,
        max_timestep=600,
        shift=lambda tokens: 2.0,
    )
    whole = timestep_sampling("logit_normal", shape=Shape(logit_mean=0.3), shift=lambda tokens: 2.0)
    u = torch.rand(1000, dtype=torch.float64)
    expected = 0.2 + 0.4 * whole.sample(FLOW, u)
    torch.testing.assert_close(limited.sample(FLOW, u), expected)
    assert FLOW.sample_timesteps(torch.tensor([0.0, 1 - 2**-30])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("scale", [1.29, 0.4, -0.9])
def test_mode_has_the_distribution_of_diffusers(scale: float) -> None:
    """Of ``1 - u`` there: diffusers counts from the noisy end."""
    theirs = compute_density_for_timestep_sampling(
        "mode", 20_000, mode_scale=scale, generator=torch.Generator().manual_seed(1)
    )
    draws = torch.rand(20_000, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    ours = mode(draws, scale=scale)
    assert ks_2samp(ours.numpy(), (1 - theirs).numpy()).pvalue > 1e-3
    assert bool((ours.sort().values == mode(draws.sort().values, scale=scale)).all())  # monotonic


def test_mode_by_hand() -> None:
    u = torch.tensor([0.0, 0.5, 0.75], dtype=torch.float64)
    # of 1 - u = 0.25: cos^2(pi / 8) = 0.853553; 0.75 - 1.29 (0.853553 - 1 + 0.25) = 0.616416
    assert mode(u, scale=1.29).tolist() == pytest.approx([0.0, 0.5, 0.616416], abs=1e-6)
    assert torch.equal(mode(u, scale=0.0), u)


def test_the_bell_by_hand() -> None:
    """The middle: 0.393469 / (1.253314 * 0.682689 - 0.606531) = 1.5796."""
    s = torch.tensor([0.0, 0.25, 0.5, 1.0])
    mean = quad(lambda x: math.exp(-2 * (x - 0.5) ** 2) - math.exp(-0.5), 0, 1)[0]
    expected = [(math.exp(-2 * (x - 0.5) ** 2) - math.exp(-0.5)) / mean for x in s.tolist()]
    found = bell_weight(FLOW.snr(s), "flow")
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.max().item() == pytest.approx(1.5796, abs=1e-4)


def test_a_table_of_weights_by_hand() -> None:
    s = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    found = table_weight(FLOW.snr(s), "flow", weights=(0.0, 2.0, 1.0))
    assert found.tolist() == pytest.approx([0.0, 1.0, 2.0, 1.5, 1.0], abs=1e-6)


def test_the_loss_by_hand() -> None:
    objective = Objective(
        FLOW, weight=lambda snr, kind: table_weight(snr, kind, weights=(1.0, 3.0))
    )
    z_0, eps = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, -2.0]]]])
    s = torch.tensor([0.5])
    target = objective.target(z_0, eps, s)
    assert target.flatten().tolist() == [1.0, -2.0]
    # mean of 1 and 4, times the weight 2 at the middle
    assert objective.loss(torch.zeros_like(target), target, s).item() == pytest.approx(5.0)


def test_the_threshold_of_huber_follows_the_level() -> None:
    s = torch.tensor([0.0, 0.5, 1.0])
    assert Huber(0.1, "exponential").thresholds(FLOW, s).tolist() == pytest.approx(
        [1.0, 0.1**0.5, 0.1]
    )
    # (1 - c) (1 - s)^2 + c
    assert Huber(0.1, "snr").thresholds(FLOW, s).tolist() == pytest.approx([1.0, 0.325, 0.1])


def test_the_schedule_follows_from_the_config() -> None:
    flow = schedule_of({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    assert isinstance(flow, FlowSchedule)
    assert flow.prediction_type == "flow"
    assert isinstance(schedule_of({"_class_name": "DDIMScheduler"}), NoiseSchedule)
    named = {"_class_name": "FlowMatchEulerDiscreteScheduler", "max_image_seq_len": 6400}
    assert token_points(named) == ((256, 0.5), (6400, 1.15))
