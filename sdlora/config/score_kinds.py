"""The table of all scores: name, format, which way is better, and the config that each needs.

It is part of the schema because three of its columns are about config
keys: ``evaluation.select`` and ``sweep.objectives`` take names of it, and ``needs`` holds keys of
``evaluation``. A score's name stands here, in its metric and in ``docs/evaluation.md``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

LOWER, HIGHER, NEITHER = "↓", "↑", ""
IDENTITY, PROMPT = "identity", "prompt"


@dataclass(frozen=True, slots=True)
class ScoreKind:
    """What a score is.

    Attributes:
        title: As tables show it.
        arrow: ``↑`` if higher is better, ``↓`` if lower is; empty where neither is.
        digits: Digits after the decimal point.
        needs: Keys of ``evaluation`` that it needs, that of its model first.
        selects: Whether the best checkpoint may be chosen by it.
        stands_for: ``IDENTITY`` or ``PROMPT``, which trade-off charts set against each other.
    """

    title: str
    arrow: str
    digits: int
    needs: tuple[str, ...] = ()
    selects: bool = False
    stands_for: str = ""

    @property
    def sign(self) -> int:
        """Factor that turns the score into a cost (lower is better) and back; 0: no direction."""
        return {LOWER: 1, HIGHER: -1, NEITHER: 0}[self.arrow]


_FACE, _CLIP, _IMAGE, _HW10 = ("face",), ("clip",), ("image",), ("face", "clip", "hw10")

KINDS: Mapping[str, ScoreKind] = {
    "face_distance": ScoreKind("face distance", LOWER, 3, _FACE, True, IDENTITY),
    "face_cosine": ScoreKind("face cosine", HIGHER, 3, _FACE),
    "face_distance_training": ScoreKind("face dist. train", NEITHER, 3, _FACE),
    "face_cosine_training": ScoreKind("face cos. train", NEITHER, 3, _FACE),
    "faceless": ScoreKind("faceless", LOWER, 0, _FACE),
    "several_faces": ScoreKind("several faces", NEITHER, 0, _FACE),
    "clip_score": ScoreKind("CLIP score", HIGHER, 2, _CLIP, True, PROMPT),
    "prompt_followed": ScoreKind("prompt followed", HIGHER, 3, ("attributes",)),
    "image_similarity": ScoreKind("image sim.", HIGHER, 3, _IMAGE, True, IDENTITY),
    "image_similarity_training": ScoreKind("image sim. train", NEITHER, 3, _IMAGE),
    "diversity": ScoreKind("diversity", HIGHER, 3, _IMAGE),
    "copying": ScoreKind("copying", LOWER, 3, _IMAGE),
    "largest_training_similarity": ScoreKind("nearest training", NEITHER, 3, _IMAGE),
    "copying_yardstick": ScoreKind("training pair", NEITHER, 3, _IMAGE),
    "kid": ScoreKind("KID", LOWER, 3, ("image", "kid"), True),
    "prior_drift": ScoreKind("prior drift", LOWER, 3, ("image", "prior_prompts")),
    "aesthetic": ScoreKind("aesthetic", HIGHER, 2, ("aesthetic",)),
    "hw10_face": ScoreKind("HW10 face", LOWER, 3, _HW10),
    "hw10_clip": ScoreKind("HW10 CLIP", HIGHER, 2, _HW10),
    "hw10_faceless": ScoreKind("HW10 faceless", LOWER, 0, _HW10),
}
"""Every score, in the order in which tables show them.

Similarity to training pictures has no arrow: it rises with an adapter that learnt the person and
with one that copies pictures; ``copying`` distinguishes the two.
"""

IDENTITY_SCORES = tuple(name for name, kind in KINDS.items() if kind.stands_for == IDENTITY)
"""Scores of identity in trade-off charts; the first that is measured is used."""

PROMPT_SCORE = next(name for name, kind in KINDS.items() if kind.stands_for == PROMPT)

MAIN_SCORES = (IDENTITY_SCORES[0], PROMPT_SCORE)
"""Scores that charts show first, and whose numbers stand below a picture."""


def kind(name: str) -> ScoreKind:
    """Title, direction and format of a score; unknown names are their own titles."""
    return KINDS.get(name) or ScoreKind(name.replace("_", " "), NEITHER, 3)
