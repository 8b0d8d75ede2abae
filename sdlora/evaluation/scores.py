"""The scores of pictures: numbers, intervals, and why one is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a list of pictures.

    Attributes:
        num_pictures: How many were scored.
        values: Name (see ``config/score_kinds.py``) -> number; None where it could not be measured.
        reasons: Name -> why it is None.
        intervals: Name -> ends of the 95 % bootstrap interval of its mean.
        per_picture: Column -> one value a picture, in the order of the pictures: ``prompt``, the
            scores that pictures have one by one, and what explains them (``num_faces``,
            ``training_similarity``, ``nearest_training``).
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
    """Scores as ``dataclasses.asdict`` and JSON have them.

    Raises:
        KeyError, TypeError, ValueError: If they are of another shape.
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
