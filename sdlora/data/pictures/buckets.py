"""Aspect buckets, and where a picture is resized and cut to fit one; pure."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height in pixels."""

CENTER = (0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Geometry:
    """What of a picture is trained on, and at which size.

    Attributes:
        bucket: Width and height of the training picture, in pixels.
        crop: Left, top, right, bottom of what is kept, in pixels of the upright picture; a real
            number, as the resampling filter takes it. Its aspect is the bucket's.
    """

    bucket: Size
    crop: tuple[float, float, float, float]

    @property
    def scale(self) -> float:
        """Pixels of the training picture to one of the picture; above 1 it is enlarged."""
        return self.bucket[0] / (self.crop[2] - self.crop[0])


def automatic_buckets(
    resolution: int, step: int, *, min_side: int, max_side: int, max_aspect: float
) -> list[Size]:
    """Sizes of about one area and many aspects, as kohya's sd-scripts makes them.

    For each width the greatest height that keeps the area at most ``resolution**2``, both being
    multiples of ``step``; each size lying and standing, and the square.

    Args:
        resolution: Side of the square, in pixels.
        step: Every side is a multiple of this, in pixels.
        min_side: Shortest side, in pixels.
        max_side: Longest side, in pixels.
        max_aspect: Greatest longer side / shorter side.

    Returns:
        Sorted sizes, at least one.

    Raises:
        ValueError: If no size keeps to these limits.
    """
    area = resolution * resolution
    found = set()
    for width in range(_up(min_side, step), max_side + 1, step):
        height = min(area // width, max_side) // step * step
        if height >= min_side and max(width, height) <= max_aspect * min(width, height):
            found |= {(width, height), (height, width)}
    square = resolution // step * step
    if min_side <= square <= max_side:
        found.add((square, square))
    if not found:
        raise ValueError(
            f"data.buckets: no size with multiples of {step} px between min_side={min_side} and "
            f"max_side={max_side} has the area of data.resolution={resolution}; widen the limits"
        )
    return sorted(found)


def fixed_buckets(sizes: Sequence[str], step: int) -> list[Size]:
    """Read sizes as ``512x768`` (width x height).

    Raises:
        ValueError: For what is no size, or a side that is no multiple of ``step``.
    """
    found = []
    for text in sizes:
        match = re.fullmatch(r"(\d+)x(\d+)", text)
        if not match:
            raise ValueError(f"data.buckets.sizes={text}: write WIDTHxHEIGHT, such as 512x768")
        width, height = int(match[1]), int(match[2])
        if not width or not height or width % step or height % step:
            sides = (max(step, round(side / step) * step) for side in (width, height))
            near = "x".join(map(str, sides))
            raise ValueError(
                f"data.buckets.sizes={text}: this model needs multiples of {step}; the nearest is "
                f"{near}"
            )
        found.append((width, height))
    return sorted(set(found))


def nearest_bucket(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose aspect is most like the picture's; of two like ones the larger.

    Aspects are compared by the logarithm of width / height, so that lying and standing pictures
    are treated alike.
    """
    aspect = math.log(size[0] / size[1])

    def rank(bucket: Size) -> tuple[float, int]:
        return round(abs(math.log(bucket[0] / bucket[1]) - aspect), 9), -bucket[0] * bucket[1]

    return min(buckets, key=rank)


def own_bucket(size: Size, largest: Size, step: int) -> Size | None:
    """A smaller bucket of a picture that must not be enlarged to ``largest``; ``None``: too small.

    The picture's own sides, cut to multiples of ``step`` and to ``largest``.
    """
    width, height = (
        min(side, limit) // step * step for side, limit in zip(size, largest, strict=True)
    )
    return (width, height) if width and height else None


def needs_enlarging(size: Size, bucket: Size) -> bool:
    """Whether a picture of this size must be enlarged to cover the bucket."""
    return size[0] < bucket[0] or size[1] < bucket[1]


def fitted(size: Size, bucket: Size, anchor: tuple[float, float] = CENTER) -> Geometry:
    """Resize to cover the bucket and cut away what hangs over.

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


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
