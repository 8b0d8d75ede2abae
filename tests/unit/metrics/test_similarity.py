"""Scores of feature vectors, by hand."""

import math

import pytest
import torch

from sdlora.metrics.similarity import copying, diversity, image_similarity


def at(*degrees):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def test_image_similarity_by_hand():
    expected = [(1 + 0) / 2, (math.sqrt(0.5) * 2) / 2, (-1 + 0) / 2]
    assert image_similarity(at(0, 45, 180), at(0, 90)).tolist() == pytest.approx(expected, abs=1e-6)


def test_diversity_is_the_mean_over_prompts_of_two_pictures():
    # a: 0, 60 and 60 degrees apart; b: 90 degrees; c has one picture
    a, b = (0 + 0.5 + 0.5) / 3, 1.0
    features, prompts = at(0, 0, 60, 0, 90, 10), ["a", "a", "a", "b", "b", "c"]
    assert diversity(features, prompts) == pytest.approx((a + b) / 2, abs=1e-6)
    assert diversity(at(0, 90), ["a", "b"]) is None
    with pytest.raises(ValueError, match="1 groups"):
        diversity(at(0, 90), ["a"])


def test_copies_are_nearer_than_half_the_gap_between_training_pictures():
    training = at(0, 60, 180, 180)  # 180 twice: one picture; the yardstick is cos 60
    found = copying(at(5, 62, 30, 120, 180), training)
    assert found.yardstick == pytest.approx(0.5, abs=1e-6)
    assert found.nearest[[0, 1]].tolist() == [0, 1]
    cosines = [math.cos(math.radians(a)) for a in (5, 2, 30, 60, 0)]
    assert found.similarity.tolist() == pytest.approx(cosines, abs=1e-6)
    assert found.share == 4 / 5  # cos 30 = 0.87 > 0.75
    assert copying(at(5), at(0, 0)).share is None


def test_nothing_to_compare_with_is_an_error():
    with pytest.raises(ValueError, match="references"):
        image_similarity(at(0), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="one width"):
        copying(torch.ones(1, 3), at(0))
