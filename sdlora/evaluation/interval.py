"""The bootstrap interval of a mean."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean by the percentile bootstrap; deterministic.

    Draws ``len(values)`` values with replacement, takes their mean, and repeats that; the interval
    covers the middle ``level`` of those means. It is too narrow for a handful of values.

    Args:
        values: At least one finite number.
        level: Share of the means inside, in (0, 1).
        num_resamples: Number of resamples, >= 1.
        seed: Seed of the draws.

    Returns:
        Lower and upper end; of a single value, that value twice.

    Raises:
        ValueError: If there is no value, one is not finite, or an argument is out of its range.

    Source:
        Efron 1979, Annals of Statistics 7(1); percentile interval of Efron & Tibshirani 1993, 13.3.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must lie between 0 and 1, e.g. 0.95.")
    if num_resamples < 1:
        raise ValueError(f"num_resamples={num_resamples}: must be at least 1.")
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError("values: give at least one number, all finite.")
    if len(numbers) == 1:
        return float(numbers[0]), float(numbers[0])
    low, high = bootstrap(
        [numbers],
        np.mean,
        n_resamples=num_resamples,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(low), float(high)
