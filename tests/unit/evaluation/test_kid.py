"""The kernel distance against the formula of its paper, in float64 over all pairs."""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sdlora.evaluation.kid import kid


def units(count: int, seed: int, shift: float = 0.0) -> Tensor:
    drawn = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    drawn[:, 0] += shift
    return F.normalize(drawn, dim=1)


def mmd(pictures: Tensor, references: Tensor) -> float:
    """Unbiased MMD^2 (Gretton et al. 2012, eq. 3) with the kernel (x . y + 1)^3."""
    x, y = pictures.double(), references.double()

    def mean(a: Tensor, b: Tensor, is_same: bool) -> float:
        pairs = [
            float((a[i] @ b[j] + 1) ** 3)
            for i, j in product(range(len(a)), range(len(b)))
            if not (is_same and i == j)
        ]
        return sum(pairs) / len(pairs)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_few_pictures_by_the_formula(count, shift):
    pictures, references = units(count, 1, shift), units(count, 2)
    found = kid(pictures, references)
    assert found is not None
    mean, (low, high) = found
    expected = mmd(pictures, references)
    assert mean == pytest.approx(expected, abs=2e-5)  # float32 sums of numbers up to 8
    assert low == pytest.approx(mean, abs=2e-5)  # every subset is all pictures
    assert high == pytest.approx(mean, abs=2e-5)


def test_many_pictures_are_near_the_formula_and_inside_the_interval():
    pictures, references = units(60, 1, 1.0), units(40, 2)
    found = kid(pictures, references)
    assert found is not None
    mean, (low, high) = found
    expected = mmd(pictures, references)
    assert low < expected < high
    # the mean of 50 subsets lies within 4 of its standard errors
    assert abs(mean - expected) < 4 * (high - low) / (2 * 1.96) / 50**0.5


def test_the_interval_lies_as_far_on_both_sides():
    mean, (low, high) = kid(units(40, 1), units(40, 2))
    assert low < mean < high
    assert high - mean == pytest.approx(mean - low)


def test_equal_distributions_are_nearer_than_others():
    same, other = kid(units(30, 1), units(30, 2)), kid(units(30, 1, 4.0), units(30, 2))
    assert same is not None
    assert other is not None
    assert same[1][0] < 0 < same[1][1]
    assert other[1][0] > same[1][1]


def test_one_picture_has_none():
    assert kid(units(1, 1), units(5, 2)) is None
    assert kid(units(5, 1), units(1, 2)) is None
    assert kid(units(0, 1), units(5, 2)) is None


def test_it_neither_reads_nor_moves_the_global_random_state():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = kid(units(20, 1), units(20, 2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert kid(units(20, 1), units(20, 2)) == first
