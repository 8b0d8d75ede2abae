"""Aspect buckets, and where a picture is resized and cut to fit one; pure."""

import math
import re
from collections.abc import Sequence

from sdlora.data.pictures.cuts import Size


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


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
