"""Buckets, against numbers worked by hand and properties that must always hold."""

import random

import pytest

from sdlora.config.rules import ConfigError
from sdlora.data.pictures.buckets import bucket_sizes, nearest_bucket, own_bucket
from sdlora.data.pictures.cuts import Size, needs_enlarging
from tests.configs import buckets_config


def automatic(resolution: int, step: int, **limits: float) -> list[Size]:
    return bucket_sizes(buckets_config(mode="auto", **limits), resolution, step)


def fixed(sizes: list[str], step: int) -> list[Size]:
    return bucket_sizes(buckets_config(mode="fixed", sizes=sizes), 512, step)


def test_automatic_sizes_by_hand() -> None:
    found = automatic(256, 64, min_side=128, max_side=512, max_aspect=4)
    # 65536 px: 128 x 512, 192 x 320 (341 rounded down), 256 x 256, 320 x 192 (204), 512 x 128
    assert (128, 512) in found
    assert (192, 320) in found
    assert (256, 256) in found
    assert (384, 128) in found  # 65536 / 384 = 170
    assert (64, 512) not in found
    assert automatic(256, 64, min_side=128, max_side=512, max_aspect=1) == [(256, 256)]


@pytest.mark.parametrize("seed", range(5))
def test_automatic_sizes_keep_every_limit(seed: int) -> None:
    draw = random.Random(seed)
    step = draw.choice([8, 16, 64])
    resolution = draw.randrange(2, 16) * 64
    shortest = draw.randrange(step, resolution)
    longest = draw.randrange(resolution, 3 * resolution)
    aspect = draw.uniform(1, 4)
    sizes = automatic(resolution, step, min_side=shortest, max_side=longest, max_aspect=aspect)
    for width, height in sizes:
        assert width % step == height % step == 0
        assert shortest <= min(width, height) <= max(width, height) <= longest
        assert max(width, height) <= aspect * min(width, height)
        assert width * height <= resolution * resolution
        assert (height, width) in sizes
    assert sizes == sorted(set(sizes))


def test_limits_without_any_size_are_named() -> None:
    with pytest.raises(ValueError, match=r"data\.buckets: no size with multiples of 64 px"):
        automatic(64, 64, min_side=128, max_side=512, max_aspect=2)


def test_sizes_that_the_model_cannot_take_are_named() -> None:
    assert bucket_sizes(buckets_config(), 80, 16) == [(80, 80)]
    with pytest.raises(ConfigError, match=r"data.resolution=72: .* a multiple of 16; .* 64 and 80"):
        bucket_sizes(buckets_config(), 72, 16)
    with pytest.raises(ConfigError, match=r"data\.buckets\.step=24: this model needs a multiple"):
        bucket_sizes(buckets_config(mode="auto", step=24), 64, 16)
    assert bucket_sizes(buckets_config(mode="auto", step=32, max_aspect=1.0), 72, 16) == [(64, 64)]


def test_fixed_sizes_are_read_or_refused() -> None:
    assert fixed(["512x768", "512x512", "512x768"], 64) == [(512, 512), (512, 768)]
    for text in ("512", "512 x 512", "512x512x3", "-64x64"):
        with pytest.raises(ValueError, match="write WIDTHxHEIGHT"):
            fixed([text], 64)
    with pytest.raises(ValueError, match=r"500x768: .* multiples of 64; the nearest is 512x768"):
        fixed(["500x768"], 64)
    with pytest.raises(ValueError, match=r"0x64: .* the nearest is 64x64"):
        fixed(["0x64"], 64)


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
