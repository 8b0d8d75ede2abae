"""The advantage of one state of a model over another, in a score of the same pictures."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdlora.config.score_kinds import kind
from sdlora.evaluation.interval import bootstrap_interval

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Advantage:
    """Difference of two states or candidates, in units of the score.

    Attributes:
        mean: Mean difference; > 0 is better, whichever direction the score has.
        low: Lower end of the 95 % interval of the mean.
        high: Upper end.
        count: Number of pairs.
        over: What is paired: ``pictures`` (of the same prompt and noise) or ``seeds``.
    """

    mean: float
    low: float
    high: float
    count: int
    over: str

    @property
    def is_clear(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.low > 0


def advantage_by_picture(
    name: str, own: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Advantage | None:
    """Paired difference over the pictures that have this score in both; None if they differ.

    Args:
        name: The score.
        own: Columns of one state, as ``Scores.per_picture``.
        theirs: Those of the other.
    """
    mine, others = own.get(name), theirs.get(name)
    if own.get("prompt") != theirs.get("prompt"):
        return None
    if not isinstance(mine, list | tuple) or not isinstance(others, list | tuple):
        return None
    differences = [
        kind(name).sign * (second - first)
        for first, second in zip(mine, others, strict=False)
        if isinstance(first, int | float) and isinstance(second, int | float)
    ]
    if not differences:
        return None
    low, high = bootstrap_interval(differences, LEVEL)
    return Advantage(statistics.mean(differences), low, high, len(differences), "pictures")
