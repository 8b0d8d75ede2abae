"""Cuts, against numbers worked by hand and properties that must always hold."""

import math
import random

import pytest

from sdlora.data.pictures.cuts import anchor_around, fitted


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
