"""Aspect buckets: the sizes of training pictures, and the choice of one for a picture."""

import math
import re
from collections.abc import Sequence

from sdlora.config.data import BucketsConfig
from sdlora.config.rules import ConfigError, require
from sdlora.data.pictures.cuts import Size


def bucket_sizes(buckets: BucketsConfig, resolution: int, step: int) -> list[Size]:
    """The sizes that pictures are cut to.

    Args:
        buckets: Mode and limits of the sizes.
        resolution: Side of the square, in pixels; automatic sizes have about its area.
        step: Every side is a multiple of this, in pixels, as the model needs.

    Returns:
        Sorted sizes, at least one.

    Raises:
        ConfigError: For sizes that the model cannot take, or if no size is within the limits.
    """
    if buckets.mode == "fixed":
        return sorted({_fixed(text, step) for text in buckets.sizes})
    if buckets.mode == "square":
        below = max(step, resolution // step * step)
        remedy = f"this model needs a multiple of {step}; the nearest are {below} and"
        require(resolution % step == 0, "data.resolution", resolution, f"{remedy} {below + step}")
        return [(resolution, resolution)]
    own = buckets.step or step
    require(own % step == 0, "data.buckets.step", own, f"this model needs a multiple of {step}")
    return _automatic(buckets, resolution, own)


def _automatic(buckets: BucketsConfig, resolution: int, step: int) -> list[Size]:
    """Sizes of about one area and many aspects, as kohya's sd-scripts makes them.

    For each width the greatest height that keeps the area at most ``resolution**2``, both being
    multiples of ``step``; each size in both orientations, and the square.
    """
    shortest, longest = buckets.min_side, buckets.max_side
    area = resolution * resolution
    found = set()
    for width in range(_up(shortest, step), longest + 1, step):
        height = min(area // width, longest) // step * step
        if height >= shortest and max(width, height) <= buckets.max_aspect * min(width, height):
            found |= {(width, height), (height, width)}
    square = resolution // step * step
    if shortest <= square <= longest:
        found.add((square, square))
    if not found:
        raise ConfigError(
            f"data.buckets: no size with multiples of {step} px between min_side={shortest} and "
            f"max_side={longest} has the area of data.resolution={resolution}; widen the limits"
        )
    return sorted(found)


def _fixed(text: str, step: int) -> Size:
    """Read a size such as ``512x768``, width x height."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise ConfigError(f"data.buckets.sizes={text}: write WIDTHxHEIGHT, such as 512x768")
    width, height = int(match[1]), int(match[2])
    if not width or not height or width % step or height % step:
        sides = (max(step, round(side / step) * step) for side in (width, height))
        near = "x".join(map(str, sides))
        raise ConfigError(
            f"data.buckets.sizes={text}: this model needs multiples of {step}; the nearest is "
            f"{near}"
        )
    return width, height


def nearest_bucket(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose aspect is nearest to the picture's; of two equally near the larger.

    Aspects are compared by the logarithm of width / height, so that landscape and portrait pictures
    are treated alike.
    """
    aspect = math.log(size[0] / size[1])

    def rank(bucket: Size) -> tuple[float, int]:
        return round(abs(math.log(bucket[0] / bucket[1]) - aspect), 9), -bucket[0] * bucket[1]

    return min(buckets, key=rank)


def own_bucket(size: Size, largest: Size, step: int) -> Size | None:
    """A smaller bucket for a picture that must not be enlarged to ``largest``; ``None``: too small.

    The picture's own sides, cut to multiples of ``step`` and to ``largest``.
    """
    width, height = (
        min(side, limit) // step * step for side, limit in zip(size, largest, strict=True)
    )
    return (width, height) if width and height else None


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
