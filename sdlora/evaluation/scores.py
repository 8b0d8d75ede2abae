"""What is measured of pictures: the names, which way is better, and the numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LOWER, HIGHER, NEITHER = "↓", "↑", ""


@dataclass(frozen=True, slots=True)
class ScoreKind:
    """How a score is shown.

    Attributes:
        title: For people.
        arrow: Which way is better; empty where neither is.
        digits: After the point.
    """

    title: str
    arrow: str
    digits: int


KINDS: Mapping[str, ScoreKind] = {
    "face_distance": ScoreKind("face distance", LOWER, 3),
    "face_cosine": ScoreKind("face cosine", HIGHER, 3),
    "face_distance_training": ScoreKind("face dist. train", NEITHER, 3),
    "face_cosine_training": ScoreKind("face cos. train", NEITHER, 3),
    "faceless": ScoreKind("faceless", LOWER, 0),
    "several_faces": ScoreKind("several faces", NEITHER, 0),
    "clip_score": ScoreKind("CLIP score", HIGHER, 2),
    "image_similarity": ScoreKind("image sim.", HIGHER, 3),
    "image_similarity_training": ScoreKind("image sim. train", NEITHER, 3),
    "diversity": ScoreKind("diversity", HIGHER, 3),
    "copying": ScoreKind("copying", LOWER, 3),
    "largest_training_similarity": ScoreKind("nearest training", NEITHER, 3),
    "copying_yardstick": ScoreKind("training pair", NEITHER, 3),
    "kid": ScoreKind("KID", LOWER, 3),
    "prior_drift": ScoreKind("prior drift", LOWER, 3),
    "aesthetic": ScoreKind("aesthetic", HIGHER, 2),
    "hw10_face": ScoreKind("HW10 face", LOWER, 3),
    "hw10_clip": ScoreKind("HW10 CLIP", HIGHER, 2),
    "hw10_faceless": ScoreKind("HW10 faceless", LOWER, 0),
}
"""Every score, in the order in which tables show them.

Likeness to training pictures has no arrow: an adapter of the person comes nearer to them, and so
does one that copies them; ``copying`` tells these apart.
"""


def kind(name: str) -> ScoreKind:
    """How a score is shown; one that an extension brought has its name for a title."""
    return KINDS.get(name) or ScoreKind(name.replace("_", " "), NEITHER, 3)


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a list of pictures.

    Attributes:
        num_pictures: How many were scored.
        values: Name (see :data:`KINDS`) -> number; None where it could not be had.
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
        """One score; None where it could not be had or was not asked for."""
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
