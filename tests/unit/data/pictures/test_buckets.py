"""Buckets and cuts, against numbers worked by hand and properties that must always hold."""

import math
import random

import pytest

from sdlora.data.pictures.buckets import (
    automatic_buckets,
    fixed_buckets,
    nearest_bucket,
    own_bucket,
)
from sdlora.data.pictures.cuts import anchor_around, fitted, needs_enlarging


def test_automatic_sizes_by_hand() -> None:
    found = automatic_buckets(256, 64, min_side=128, max_side=512, max_aspect=4)
    # 65536 px: 128 x 512, 192 x 320 (341 rounded down), 256 x 256, 320 x 192 (204), 512 x 128
    assert (128, 512) in found
    assert (192, 320) in found
    assert (256, 256) in found
    assert (384, 128) in found  # 65536 / 384 = 170
    assert (64, 512) not in found
    assert automatic_buckets(256, 64, min_side=128, max_side=512, max_aspect=1) == [(256, 256)]


@pytest.mark.parametrize("seed", range(5))
def test_automatic_sizes_keep_every_limit(seed: int) -> None:
    draw = random.Random(seed)
    step = draw.choice([8, 16, 64])
    resolution = draw.randrange(2, 16) * 64
    shortest = draw.randrange(step, resolution)
    longest = draw.randrange(resolution, 3 * resolution)
    aspect = draw.uniform(1, 4)
    sizes = automatic_buckets(
        resolution, step, min_side=shortest, max_side=longest, max_aspect=aspect
    )
    for width, height in sizes:
        assert width % step == height % step == 0
        assert shortest <= min(width, height) <= max(width, height) <= longest
        assert max(width, height) <= aspect * min(width, height)
        assert width * height <= resolution * resolution
        assert (height, width) in sizes
    assert sizes == sorted(set(sizes))


def test_limits_without_any_size_are_named() -> None:
    with pytest.raises(ValueError, match=r"data\.buckets: no size with multiples of 64 px"):
        automatic_buckets(64, 64, min_side=128, max_side=512, max_aspect=2)


def test_fixed_sizes_are_read_or_refused() -> None:
    assert fixed_buckets(["512x768", "512x512", "512x768"], 64) == [(512, 512), (512, 768)]
    for text in ("512", "512 x 512", "512x512x3", "-64x64"):
        with pytest.raises(ValueError, match="write WIDTHxHEIGHT"):
            fixed_buckets([text], 64)
    with pytest.raises(ValueError, match=r"500x768: .* multiples of 64; the nearest is 512x768"):
        fixed_buckets(["500x768"], 64)
    with pytest.raises(ValueError, match=r"0x64: .* the nearest is 64x64"):
        fixed_buckets(["0x64"], 64)


def test_nearest_bucket_is_the_most_alike() -> None:
    sizes = [(512, 512), (512, 768), (768, 512)]
    assert nearest_bucket((1000, 1000), sizes) == (512, 512)
    assert nearest_bucket((3000, 4000), sizes) == (512, 768)
    assert nearest_bucket((4000, 3000), sizes) == (768, 512)
    # the geometric mean of 1 and 1.5 is the border: 1.2247
    assert nearest_bucket((1220, 1000), sizes) == (512, 512)
    assert nearest_bucket((1230, 1000), sizes) == (768, 512)
    assert nearest_bucket((500, 500), [(256, 256), (512, 512)]) == (512, 512)


def test_a_small_picture_gets_a_bucket_of_its_own_size() -> None:
    assert needs_enlarging((700, 500), (512, 512))
    assert not needs_enlarging((512, 512), (512, 512))
    assert own_bucket((700, 500), (512, 512), 64) == (512, 448)
    assert own_bucket((63, 500), (512, 512), 64) is None


def test_cuts_by_hand() -> None:
    assert fitted((100, 40), (20, 20)).crop == (30.0, 0.0, 70.0, 40.0)
    assert fitted((100, 40), (20, 20), (0.0, 0.0)).crop == (0.0, 0.0, 40.0, 40.0)
    assert fitted((100, 40), (20, 20), (1.0, 0.5)).crop == (60.0, 0.0, 100.0, 40.0)
    assert fitted((40, 100), (20, 40)).crop == (0.0, 10.0, 40.0, 90.0)
    assert fitted((100, 40), (20, 20)).scale == 0.5
    assert fitted((10, 10), (20, 20)).scale == 2.0


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_is_the_largest_of_its_aspect_inside_the_picture(seed: int) -> None:
    draw = random.Random(seed)
    size = (draw.randrange(1, 5000), draw.randrange(1, 5000))
    bucket = (draw.randrange(1, 40) * 8, draw.randrange(1, 40) * 8)
    cut = fitted(size, bucket, (draw.random(), draw.random()))
    left, top, right, bottom = cut.crop
    assert left >= 0
    assert top >= 0
    assert right <= size[0] + 1e-6
    assert bottom <= size[1] + 1e-6
    assert (right - left) / (bottom - top) == pytest.approx(bucket[0] / bucket[1])
    touches = math.isclose(right - left, size[0]) or math.isclose(bottom - top, size[1])
    assert touches


def test_a_face_comes_to_the_middle_as_far_as_the_picture_reaches() -> None:
    size, bucket = (400, 100), (64, 64)
    cut = fitted(size, bucket, anchor_around(size, bucket, (190, 10, 20, 20)))
    assert cut.crop == pytest.approx((150, 0, 250, 100))  # the face's middle is at 200
    at_edge = fitted(size, bucket, anchor_around(size, bucket, (0, 0, 20, 20)))
    assert at_edge.crop == pytest.approx((0, 0, 100, 100))
    assert anchor_around((64, 64), bucket, (0, 0, 10, 10)) == (0.5, 0.5)  # nothing to spare
