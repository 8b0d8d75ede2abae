"""The bootstrap against closed forms."""

import numpy as np
import pytest

from sdlora.evaluation.interval import bootstrap_interval


def test_normal_data_give_the_closed_form():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    error = values.std() / np.sqrt(len(values))
    low, high = bootstrap_interval(values, num_resamples=20_000)
    # ends of 20,000 resampled means: standard error of a 2.5 % quantile is 0.019 of theirs
    assert low == pytest.approx(values.mean() - 1.95996 * error, abs=0.08 * error)
    assert high == pytest.approx(values.mean() + 1.95996 * error, abs=0.08 * error)


def test_it_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(2)
    ends = [bootstrap_interval(rng.normal(size=40), num_resamples=200) for _ in range(300)]
    covered = np.mean([low <= 0 <= high for low, high in ends])
    # 0.94 is expected of 40 values; the standard error of 300 trials is 0.014
    assert 0.89 <= covered <= 0.985


def test_one_value_equal_values_and_determinism():
    assert bootstrap_interval([0.5]) == (0.5, 0.5)
    assert bootstrap_interval([2.0] * 5) == (2.0, 2.0)
    assert bootstrap_interval([1, 2, 4]) == bootstrap_interval([1, 2, 4])
    narrow, wide = (bootstrap_interval(range(20), level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < 9.5 < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("values", "arguments", "named"),
    [
        ([], {}, "values"),
        ([1.0, float("nan")], {}, "values"),
        ([1.0], {"level": 1.0}, "level"),
        ([1.0], {"num_resamples": 0}, "num_resamples"),
    ],
)
def test_what_has_no_interval_is_an_error(values, arguments, named):
    with pytest.raises(ValueError, match=named):
        bootstrap_interval(values, **arguments)


def test_the_interval_lies_on_the_side_of_the_values():
    low, high = bootstrap_interval([-3.0, -2.0, -1.0, -2.5])
    assert -3.0 <= low < np.mean([-3.0, -2.0, -1.0, -2.5]) < high <= -1.0
    mirrored = bootstrap_interval([3.0, 2.0, 1.0, 2.5])
    assert mirrored == pytest.approx((-high, -low), abs=0.2)  # of 2000 means of four values
