"""How far strangers' faces lie by a recognition network: the value of a picture without a face.

Such a picture counts as an unrelated person. Leaving it out (or counting the best value) would
reward an adapter for destroying faces, and so would a value below that of strangers; one far above
it would make a single blank picture worse than several strangers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stranger:
    """An unrelated person's face.

    Attributes:
        distance: Its distance from the references, between unit vectors, in (0, 2).
        cosine: Its cosine with them.
    """

    distance: float
    cosine: float


RIGHT_ANGLE = Stranger(distance=math.sqrt(2.0), cosine=0.0)
"""Orthogonal unit vectors: strangers of a network with many dimensions that keeps them apart."""

STRANGERS: Mapping[str, Stranger] = {
    **dict.fromkeys(
        ("ArcFace", "Buffalo_L", "Facenet512", "GhostFaceNet", "SFace", "VGG-Face"), RIGHT_ANGLE
    ),
    # median over all pairs of 100 photos of one person with 60 of others; the person's own pairs
    # have 0.348; the cosine is 1 - distance ** 2 / 2
    "Dlib": Stranger(distance=0.458, cosine=0.895),
}
"""deepface's networks -> strangers.

The first have strangers near a right angle: deepface 0.0.103 takes two faces for strangers' from
1.04 (Facenet512) to 1.17 (VGG-Face) on (``euclidean_l2`` in its config/threshold.py). Dlib's lie
near each other (there 0.4), and were measured by the project. DeepFace, DeepID, Facenet and
OpenFace (0.17 to 0.80) were not measured, and no checkpoint is chosen by them.
"""
