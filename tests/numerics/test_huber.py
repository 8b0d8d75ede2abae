"""Huber errors against scipy, the formula in float64, and thresholds worked by hand."""

import pytest
import torch
from scipy.special import pseudo_huber

from sdlora.diffusion.huber import Huber
from sdlora.diffusion.noise_schedule import NoiseSchedule
from sdlora.diffusion.objective import Objective
from sdlora.diffusion.weighting import debiased_weight

SCHEDULE = NoiseSchedule(torch.tensor([1.0, 0.5, 0.1, 0.0]), "v_prediction")


@pytest.mark.parametrize("threshold", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("smooth_l1", [False, True])
def test_error_against_scipy(threshold: float, smooth_l1: bool) -> None:
    """scipy's pseudo_huber is c**2 (sqrt(1 + (d / c)**2) - 1), half of kohya's huber."""
    difference = torch.tensor([[0.0, 1e-3, -0.05, 0.7, -3.0, 1e4]])
    got = Huber(threshold, smooth_l1=smooth_l1)(difference, SCHEDULE, torch.tensor([1]))
    assert got.dtype == torch.float32
    expected = 2 * pseudo_huber(threshold, difference.double().numpy())
    # in float64 scipy loses 16 digits to cancellation where d is 1e-3 of c; abs covers that
    torch.testing.assert_close(
        got.double(),
        torch.from_numpy(expected / threshold if smooth_l1 else expected),
        rtol=1e-6,
        atol=1e-12,
    )


def test_by_hand_where_it_is_linear_and_where_squared() -> None:
    four_three = torch.tensor([[4.0]])  # sqrt(16 + 9) - 3 = 2
    t = torch.tensor([0])
    assert Huber(3.0)(four_three, SCHEDULE, t).item() == pytest.approx(12.0)  # 2 * 3 * 2
    assert Huber(3.0, smooth_l1=True)(four_three, SCHEDULE, t).item() == pytest.approx(4.0)
    small = torch.tensor([[1e-4]])
    # float32 of sqrt(d**2 + c**2) - c would be 0 here
    assert Huber(1.0)(small, SCHEDULE, t).item() == pytest.approx(1e-8, rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.1, 0.1, 0.1, 0.1]),
        ("exponential", [1.0, 0.1**0.25, 0.1**0.5, 0.1**0.75]),  # c**(t / T), T = 4
        # sigma 0, 1, 3 (alpha_bar 0.1: sqrt(0.9 / 0.1)) and infinite
        ("snr", [1.0, 0.9 / 4 + 0.1, 0.9 / 16 + 0.1, 0.1]),
    ],
)
def test_thresholds_by_hand(schedule: str, expected: list[float]) -> None:
    got = Huber(0.1, schedule).thresholds(SCHEDULE, torch.arange(4))
    assert got.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smooth_l1", [False, True])
@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
def test_gradients_are_finite_and_those_of_the_formula(schedule: str, smooth_l1: bool) -> None:
    huber = Huber(0.1, schedule, smooth_l1)
    difference = torch.tensor([[0.0, 1e-6, 0.5, -40.0]] * 4, requires_grad=True)
    huber(difference, SCHEDULE, torch.arange(4)).sum().backward()
    d, c = difference.detach().double(), huber.thresholds(SCHEDULE, torch.arange(4)).double()
    c = c.view(-1, 1)
    expected = 2 * d / (d**2 + c**2).sqrt() * (1 if smooth_l1 else c)
    assert difference.grad is not None
    torch.testing.assert_close(difference.grad.double(), expected, rtol=1e-5, atol=0)


def test_the_loss_takes_masks_and_weights_after_the_error() -> None:
    objective = Objective(SCHEDULE, lambda snr, kind: torch.full_like(snr, 3.0), Huber(3.0))
    prediction = torch.tensor([[[[4.0, 0.0]]], [[[4.0, 4.0]]]])
    mask = torch.tensor([[[[0.5, 0.0]]], [[[1.0, 1.0]]]])
    t = torch.tensor([0, 1])
    zeros = torch.zeros(2, 1, 1, 2)
    assert objective.per_sample(prediction, zeros, t, mask).tolist() == pytest.approx([36.0, 36.0])
    assert objective.per_sample(prediction, zeros, t).tolist() == pytest.approx([18.0, 36.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.0, "snr"), "^threshold=0.0: must be > 0"), ((0.1, "log"), "^schedule=log: unknown")],
)
def test_what_cannot_work_is_refused(arguments: tuple[float, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Huber(*arguments)


def test_the_loss_is_float32_whatever_the_compute_precision_is() -> None:
    objective = Objective(SCHEDULE, debiased_weight, Huber(0.1, "snr"))
    prediction, t = torch.randn(4, 4, 2, 2), torch.arange(4)
    exact = objective.per_sample(prediction, torch.zeros(4, 4, 2, 2), t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = objective.per_sample(prediction, torch.zeros(4, 4, 2, 2), t)
    assert low.dtype == torch.float32
    assert torch.equal(low, exact)
