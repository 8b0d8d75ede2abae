"""Cuts of pictures: the trained region of each, and the size it is resized to."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

Size = tuple[int, int]
"""Width and height in pixels."""


CENTER = (0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The trained region of a picture, and the size it is resized to.

    Attributes:
        bucket: Width and height of the training picture, in pixels.
        crop: Left, top, right, bottom of what is kept, in pixels of the upright picture; a real
            number, as the resampling filter takes it. Its aspect is the bucket's.
    """

    bucket: Size
    crop: tuple[float, float, float, float]

    @property
    def scale(self) -> float:
        """Pixels of the training picture per pixel of the picture; above 1 it is enlarged."""
        return self.bucket[0] / (self.crop[2] - self.crop[0])


def needs_enlarging(size: Size, bucket: Size) -> bool:
    """Whether a picture of this size must be enlarged to cover the bucket."""
    return size[0] < bucket[0] or size[1] < bucket[1]


def fitted(size: Size, bucket: Size, anchor: tuple[float, float] = CENTER) -> Geometry:
    """Resize to cover the bucket, and cut the rest away.

    Args:
        size: The upright picture's, in pixels.
        bucket: The training picture's, in pixels.
        anchor: Where the cut lies along width and height: 0 left or top, 0.5 centre, 1 right or
            bottom.
    """
    kept_width = min(float(size[0]), size[1] * bucket[0] / bucket[1])
    kept_height = min(float(size[1]), size[0] * bucket[1] / bucket[0])
    left = (size[0] - kept_width) * anchor[0]
    top = (size[1] - kept_height) * anchor[1]
    return Geometry(bucket, (left, top, left + kept_width, top + kept_height))


def anchor_around(size: Size, bucket: Size, box: tuple[int, int, int, int]) -> tuple[float, float]:
    """The anchor that puts a box (a face: left, top, width, height) in the middle of the cut.

    The cut stays inside the picture.
    """
    whole = fitted(size, bucket).crop
    kept = (whole[2] - whole[0], whole[3] - whole[1])
    anchor = []
    for axis in (0, 1):
        spare = size[axis] - kept[axis]
        middle = box[axis] + box[axis + 2] / 2
        wanted = (middle - kept[axis] / 2) / spare if spare > 0 else 0.5
        anchor.append(min(1.0, max(0.0, wanted)))
    return anchor[0], anchor[1]


def size_conditioning(sizes: Sequence[Size], cuts: Sequence[Geometry], flipped: Tensor) -> Tensor:
    """SDXL's size conditioning of pictures: original size, cut position and cut size.

    Args:
        sizes: Original width and height of each picture.
        cuts: Cut of each picture.
        flipped: Whether each is mirrored, ``[B]``, bool.

    Returns:
        Height and width of the picture; top and left of the cut, in pixels of the picture resized
        (and mirrored) to be cut; height and width of the cut; ``[B, 6]``, float32.

    Source:
        Podell et al. 2023, arXiv:2307.01952, section 2.2; in the order of diffusers'
        ``_get_add_time_ids``.
    """
    rows = []
    for (width, height), cut, mirrored in zip(sizes, cuts, flipped.tolist(), strict=True):
        left, top, right, bottom = cut.crop
        across, down = cut.bucket[0] / (right - left), cut.bucket[1] / (bottom - top)
        start = width - right if mirrored else left
        rows.append([height, width, round(top * down), round(start * across), *cut.bucket[::-1]])
    return torch.tensor(rows, dtype=torch.float32).view(-1, 6)


def cut_out(image: Image.Image, geometry: Geometry) -> Image.Image:
    """Cut a picture and resize it to its bucket (Lanczos), in one pass."""
    whole = (0.0, 0.0, float(image.width), float(image.height))
    if geometry.crop == whole and image.size == geometry.bucket:
        return image
    return image.resize(geometry.bucket, Image.Resampling.LANCZOS, box=geometry.crop)
