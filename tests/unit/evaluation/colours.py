"""Pictures of one colour, and models to which a colour is an angle; notes are kept."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sdlora.evaluation.face_metric import Faces
from sdlora.evaluation.scoring import KnownPictures, Measured, Pictures
from sdlora.evaluation.strangers import RIGHT_ANGLE, Stranger
from sdlora.runtime.progress import Progress

ANGLES = {"white": 0, "red": 90, "lime": 180, "yellow": 90}
"""In degrees; of every other colour there is none."""

TWO_FACES = "yellow"


def pictures(*colours: str) -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), colour) for colour in colours]


def known(*colours: str) -> KnownPictures:
    """Called ``0-white.png`` and so on."""
    names = [f"{number}-{colour}.png" for number, colour in enumerate(colours)]
    return KnownPictures(names, pictures(*colours))


class ColourFaces:
    """A colour is a face at its angle; yellow shows two, black none."""

    def __init__(self, stranger: Stranger | None = RIGHT_ANGLE) -> None:
        self.num_embedded = 0
        self.stranger = stranger

    def embed(self, images: Sequence[Image.Image]) -> Faces:
        self.num_embedded += len(images)
        colours = [_colour(image) for image in images]
        counts = [0 if c is None else 1 + (c == TWO_FACES) for c in colours]
        rows = [(0.0, 0.0) if c is None else _unit(ANGLES[c]) for c in colours]
        return Faces(torch.tensor(rows).reshape(-1, 2), torch.tensor(counts))


class ColourFeatures:
    """A colour's angle is its vector."""

    def __init__(self) -> None:
        self.num_embedded = 0

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        self.num_embedded += len(images)
        return torch.tensor([_unit(ANGLES[str(_colour(image))]) for image in images])


class Notes(Progress):
    """Keeps what is printed, and how far bars came."""

    def __init__(self) -> None:
        super().__init__(enabled=False)
        self.printed: list[str] = []
        self.counted: list[int] = []

    def print(self, message: object) -> None:
        self.printed.append(str(message))

    def update(self, bar: Any, completed: int, note: str = "") -> None:
        self.counted.append(completed)


def score(scorer: Any, *colours: str, **more: Any) -> Measured:
    """What one scorer finds in pictures of these colours."""
    found: Measured = scorer.score(Pictures(pictures(*colours), **more), Notes())
    return found


def _colour(image: Image.Image) -> str | None:
    named = {Image.new("RGB", (1, 1), name).getpixel((0, 0)): name for name in ANGLES}
    return named.get(image.getpixel((0, 0)))


def _unit(degrees: float) -> tuple[float, float]:
    return round(math.cos(math.radians(degrees)), 12), round(math.sin(math.radians(degrees)), 12)
