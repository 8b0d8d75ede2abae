"""Loss weights against numbers worked by hand, and against what they mean for x0 errors."""

import math
from functools import partial

import pytest
import torch

from sdlora.diffusion.noise_schedule import NoiseSchedule
from sdlora.diffusion.objective import Objective, Weight
from sdlora.diffusion.weighting import debiased_weight, min_snr_weight, p2_weight

MIN_SNR = partial(min_snr_weight, gamma=5.0)
P2 = partial(p2_weight, gamma=1.0, k=1.0)


@pytest.mark.parametrize(
    ("snr", "prediction_type", "weight"),
    [
        (4.0, "epsilon", 0.5),  # 1 / sqrt(4)
        (0.25, "epsilon", 2.0),
        (1e6, "epsilon", 1000**-0.5),  # capped at 1000
        (4.0, "v_prediction", 0.2),  # 1 / (4 + 1), as kohya
        (0.0, "v_prediction", 1.0),  # zero-terminal SNR
        (math.inf, "v_prediction", 1 / 1001),
        (4.0, "sample", 2.0),  # sqrt(4)
        (0.0, "sample", 0.0),
    ],
)
def test_debiased_weight_by_hand(snr: float, prediction_type: str, weight: float) -> None:
    for dtype in (torch.float64, torch.float32):
        got = debiased_weight(torch.tensor([snr], dtype=dtype), prediction_type)
        assert got.dtype == dtype
        assert got.item() == pytest.approx(weight, rel=4 * torch.finfo(dtype).eps, abs=0)


@pytest.mark.parametrize(
    ("snr", "gamma", "k", "weight"),
    [
        (3.0, 1.0, 1.0, 0.25),  # 1 / (1 + 3)
        (3.0, 0.5, 1.0, 0.5),
        (3.0, 2.0, 2.0, 0.04),  # 1 / 5**2
        (0.0, 1.0, 1.0, 1.0),  # zero-terminal SNR
        (math.inf, 1.0, 1.0, 0.0),
    ],
)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_p2_weight_by_hand(
    snr: float, gamma: float, k: float, weight: float, prediction_type: str
) -> None:
    got = p2_weight(torch.tensor([snr], dtype=torch.float64), prediction_type, gamma=gamma, k=k)
    assert got.item() == pytest.approx(weight, rel=1e-15)


@pytest.mark.parametrize(("gamma", "k"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_p2_refuses_what_is_not_positive(gamma: float, k: float) -> None:
    with pytest.raises(ValueError, match="^p2_gamma=.*, p2_k=.*: both must be > 0"):
        p2_weight(torch.tensor([1.0]), "epsilon", gamma=gamma, k=k)


@pytest.mark.parametrize(
    ("weight", "prediction_types"),
    [
        (MIN_SNR, ["epsilon", "v_prediction", "sample"]),
        (debiased_weight, ["epsilon", "sample"]),  # for v it is kohya's, another one
    ],
)
def test_the_same_error_costs_the_same_whatever_is_predicted(
    weight: Weight, prediction_types: list[str]
) -> None:
    """A model that is wrong about x0 by d has wrong eps and v too, by z_t = a x0 + s eps.

    The prediction of each type is made from the wrong x0 in float64, not by a factor on the error.
    """
    draw = torch.Generator().manual_seed(0)
    alpha_bar = torch.tensor([0.99, 0.7, 0.3, 0.01], dtype=torch.float64)
    shape = (4, 4, 4, 4)
    z_0, eps, wrong = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(3))
    t = torch.arange(4)
    a, s = alpha_bar.sqrt().view(-1, 1, 1, 1), (1 - alpha_bar).sqrt().view(-1, 1, 1, 1)
    z_t = a * z_0 + s * eps
    x_hat = z_0 + 0.1 * wrong
    eps_hat = (z_t - a * x_hat) / s
    predictions = {"sample": x_hat, "epsilon": eps_hat, "v_prediction": a * eps_hat - s * x_hat}
    losses = []
    for prediction_type in prediction_types:
        objective = Objective(NoiseSchedule(alpha_bar, prediction_type), weight)
        target = objective.target(z_0, eps, t)
        losses.append(objective.per_sample(predictions[prediction_type], target, t))
    for other in losses[1:]:
        # float32: differences of 0.1 of numbers near 1, and 1 - 0.99 is off by 2**-25 / 0.01
        torch.testing.assert_close(other, losses[0], rtol=2e-5, atol=0)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@pytest.mark.parametrize("weight", [None, MIN_SNR, debiased_weight, P2])
def test_no_weight_divides_by_the_last_snr_of_zero(
    weight: Weight | None, prediction_type: str
) -> None:
    schedule = NoiseSchedule(torch.tensor([1.0, 0.5, 0.0]), prediction_type)  # SNR inf, 1, 0
    prediction = torch.randn(3, 4, 2, 2, requires_grad=True)
    t = torch.arange(3)
    objective = Objective(schedule, weight)
    target = objective.target(torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), t)
    objective.loss(prediction, target, t).backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
