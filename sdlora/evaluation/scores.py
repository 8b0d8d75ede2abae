"""The scores of a list of pictures: numbers, intervals, and reasons of missing ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a list of pictures.

    Attributes:
        num_pictures: Number of scored pictures.
        values: Name (see ``config/score_kinds.py``) -> number; None where it is unavailable.
        reasons: Name -> reason of a None.
        intervals: Name -> ends of the 95 % bootstrap interval of its mean.
        per_picture: Column -> one value for each picture, in order: ``prompt``, scores of single
            pictures, and details (``num_faces``, ``training_similarity``, ``nearest_training``).
    """

    num_pictures: int
    values: Mapping[str, float | int | None] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    per_picture: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def value(self, name: str) -> float | int | None:
        """One score; None where it could not be measured or was not asked for."""
        return self.values.get(name)


def scores_from(stored: Mapping[str, Any]) -> Scores:
    """Scores from the form of ``dataclasses.asdict`` and JSON.

    Raises:
        KeyError, TypeError, ValueError: If they have another shape.
    """
    intervals = {
        name: (float(low), float(high)) for name, (low, high) in stored["intervals"].items()
    }
    return Scores(
        num_pictures=int(stored["num_pictures"]),
        values=dict(stored["values"]),
        reasons=dict(stored["reasons"]),
        intervals=intervals,
        per_picture=dict(stored["per_picture"]),
    )
