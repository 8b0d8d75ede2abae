"""Scores of feature vectors, by hand."""

import math

import pytest
import torch

from sdlora.evaluation.similarity import (
    Copying,
    Diversity,
    ImageSimilarity,
    PriorDrift,
    copying,
    diversity,
    image_similarity,
)


def at(*degrees):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def test_image_similarity_by_hand():
    expected = [(1 + 0) / 2, (math.sqrt(0.5) * 2) / 2, (-1 + 0) / 2]
    assert image_similarity(at(0, 45, 180), at(0, 90)).tolist() == pytest.approx(expected, abs=1e-6)


def test_diversity_is_the_mean_over_the_pairs_of_each_prompt():
    # a: 0, 60 and 60 degrees apart; b: 90 degrees; c has one picture
    a, b = (0 + 0.5 + 0.5) / 3, 1.0
    features, prompts = at(0, 0, 60, 0, 90, 10), ["a", "a", "a", "b", "b", "c"]
    assert diversity(features, prompts).tolist() == pytest.approx([a, b], abs=1e-6)
    mixed = diversity(at(0, 0, 10, 90, 0, 60), ["b", "a", "c", "b", "a", "a"])
    assert mixed.tolist() == pytest.approx([b, a], abs=1e-6)  # in the order of first pictures
    assert len(diversity(at(0, 90), ["a", "b"])) == 0
    with pytest.raises(ValueError, match="1 groups"):
        diversity(at(0, 90), ["a"])


def test_the_nearest_training_picture_and_the_nearest_two_of_those():
    training = at(0, 60, 180, 180)  # 180 twice: one picture; the yardstick is cos 60
    found = copying(at(5, 62, 30, 120, 180), training)
    assert found.yardstick == pytest.approx(0.5, abs=1e-6)
    assert found.nearest[[0, 1]].tolist() == [0, 1]
    cosines = [math.cos(math.radians(a)) for a in (5, 2, 30, 60, 0)]
    assert found.similarity.tolist() == pytest.approx(cosines, abs=1e-6)
    assert copying(at(5), at(0, 0)).yardstick is None
    none = copying(torch.zeros(0, 1), training)
    assert (len(none.similarity), len(none.nearest)) == (0, 0)


def test_copies_are_nearer_than_half_the_gap_between_training_pictures():
    metric = Copying(at(0, 60, 180, 180))
    metric.update(at(5, 62, 30, 120, 180))
    # cos 30 = 0.87 > 0.75, cos 60 is not
    assert metric.each().tolist() == [1, 1, 1, 0, 1]
    assert metric.compute().item() == 4 / 5
    assert metric.yardstick == pytest.approx(0.5, abs=1e-6)


def test_copies_add_up_over_updates_and_begin_again():
    metric = Copying(at(0, 60))
    metric.update(at(0))
    metric.update(at(120, 62))
    assert metric.each().tolist() == [1, 0, 1]
    assert metric.similarity == pytest.approx([1, 0.5, math.cos(math.radians(2))], abs=1e-6)
    assert metric.nearest == [0, 1, 1]
    metric.reset()
    metric.update(at(61))
    assert metric.nearest == [1]
    assert metric.similarity == pytest.approx([math.cos(math.radians(1))], abs=1e-6)
    assert metric.compute().item() == 1


def test_without_a_yardstick_nothing_is_said_to_be_a_copy():
    metric = Copying(at(0, 0))
    metric.update(at(0, 90))
    assert metric.yardstick is None
    assert len(metric.each()) == 0
    assert metric.similarity == pytest.approx([1, 0], abs=1e-6)


def test_similarity_and_diversity_are_means_over_updates():
    similarity = ImageSimilarity(at(0, 90))
    similarity.update(at(0))
    similarity.update(at(45, 180))
    each = [0.5, math.sqrt(0.5), -0.5]
    assert similarity.each().tolist() == pytest.approx(each, abs=1e-6)
    assert similarity.compute().item() == pytest.approx(sum(each) / 3, abs=1e-6)
    varied = Diversity()
    varied.update(at(0, 60), ["a", "a"])
    varied.update(at(0, 90, 10), ["b", "b", "c"])
    assert varied.each().tolist() == pytest.approx([0.5, 1.0], abs=1e-6)
    assert varied.compute().item() == pytest.approx(0.75, abs=1e-6)


def test_drift_by_hand():
    drift = PriorDrift()
    drift.update(at(0, 60, 90), at(0, 0, 270))
    assert drift.each().tolist() == pytest.approx([0, 0.5, 2], abs=1e-6)
    drift.update(at(10), at(10))
    assert drift.compute().item() == pytest.approx(2.5 / 4, abs=1e-6)
    with pytest.raises(ValueError, match="one picture of the base for each"):
        drift.update(at(0, 60), at(0))


def test_nothing_to_compare_with_is_an_error():
    with pytest.raises(ValueError, match="references"):
        image_similarity(at(0), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="different widths"):
        copying(torch.ones(1, 3), at(0))
