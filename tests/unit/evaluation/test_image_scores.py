"""Scores by picture features, by hand: a colour's angle is its vector."""

from typing import Any, cast

import pytest

from sdlora.evaluation.image_features import ImageFeatures
from sdlora.evaluation.image_scores import ImageScorer
from sdlora.evaluation.kid import kid
from sdlora.evaluation.scoring import KnownPictures, Pictures
from tests.unit.evaluation.colours import ColourFeatures, Notes, known, pictures, score

NONE = KnownPictures()


def scorer(references: KnownPictures, training: KnownPictures, **more: Any) -> ImageScorer:
    return ImageScorer(cast(ImageFeatures, ColourFeatures()), references, training, **more)


def test_all_by_hand():
    found = score(
        scorer(known("white"), known("white", "red")), "white", "red", "lime", prompts="aab"
    )
    assert found.values == {
        "image_similarity": pytest.approx((1 + 0 - 1) / 3, abs=1e-6),
        "diversity": pytest.approx(1),  # a: at a right angle; b has one picture
        "copying": pytest.approx(2 / 3),  # white and red are more than cos 60 near to themselves
        "copying_yardstick": pytest.approx(0, abs=1e-6),
        "largest_training_similarity": pytest.approx(1),
        "image_similarity_training": pytest.approx((0.5 + 0.5 - 0.5) / 3, abs=1e-6),
    }
    each = found.per_picture
    assert each["image_similarity"] == pytest.approx([1, 0, -1], abs=1e-6)
    assert each["image_similarity_training"] == pytest.approx([0.5, 0.5, -0.5], abs=1e-6)
    assert each["training_similarity"] == pytest.approx([1, 1, 0], abs=1e-6)
    assert each["nearest_training"] == ["0-white.png", "1-red.png", "1-red.png"]
    assert each["copying"] == [1, 1, 0]
    assert "diversity" not in each  # its numbers are prompts'
    low, high = found.intervals["image_similarity"]
    assert -1 <= low < 0 < high <= 1
    assert set(found.intervals) == {
        "image_similarity",
        "diversity",
        "copying",
        "image_similarity_training",
    }
    assert found.reasons == {}


def test_known_pictures_are_embedded_once():
    features = ColourFeatures()
    found = ImageScorer(cast(ImageFeatures, features), known("white"), known("white", "red"))
    for _ in range(2):
        score(found, "white", "red")
    assert features.num_embedded == 1 + 2 + 2 * 2


def test_training_pictures_are_not_looked_for_among_themselves():
    found = score(scorer(known("white"), known("white", "red")), "white", are_training=True)
    assert set(found.values) == {"image_similarity", "diversity"}
    assert set(found.per_picture) == {"image_similarity"}


def test_training_pictures_that_are_the_references_have_one_column():
    same = known("white", "red")
    found = score(scorer(same, same), "white")
    assert found.values["image_similarity"] == pytest.approx(0.5)
    assert "image_similarity_training" not in found.values
    assert found.values["copying"] == 1


def test_the_kernel_distance_is_to_the_references():
    found = scorer(known("white", "red"), NONE, with_kid=True)
    assert found.names == ("image_similarity", "diversity", "copying", "kid")
    measured = score(found, "lime", "red")
    features = ColourFeatures()
    expected = kid(
        features.embed(pictures("lime", "red")), features.embed(pictures("white", "red"))
    )
    assert (measured.values["kid"], measured.intervals["kid"]) == expected
    # by hand: within both (0 + 1)^3; lime-white (-1 + 1)^3, twice (0 + 1)^3, red-red (1 + 1)^3
    assert measured.values["kid"] == pytest.approx(1 + 1 - 2 * (0 + 1 + 1 + 8) / 4, abs=1e-5)
    assert score(found, "red").reasons["kid"] == "needs two pictures and two references"
    assert "kid" not in score(scorer(known("white", "red"), NONE), "lime", "red").values


def test_the_drift_of_the_class_by_hand():
    prior = pictures("white", "white", "lime"), pictures("white", "red", "white")
    found = score(scorer(NONE, NONE), "red", prior=prior)
    assert found.values["prior_drift"] == pytest.approx((0 + 1 + 2) / 3, abs=1e-6)
    assert "prior_drift" in found.intervals
    assert "prior_drift" not in found.per_picture  # these are other pictures
    assert "prior_drift" not in score(scorer(NONE, NONE), "red").values


def test_what_features_cannot_say_has_a_reason():
    found = score(scorer(NONE, NONE, with_kid=True), "red", prompts=["a"])
    assert found.values == dict.fromkeys(("image_similarity", "diversity", "copying", "kid"))
    assert found.reasons == {
        "image_similarity": "there are no reference pictures to compare with",
        "kid": "there are no reference pictures to compare with",
        "diversity": "no prompt was drawn with two seeds",
        "copying": "there are no training pictures to compare with",
    }
    alike = score(scorer(NONE, known("red", "red")), "red")
    assert alike.reasons["copying"] == "there are no two different training pictures"
    assert alike.values["largest_training_similarity"] == pytest.approx(1)
    assert alike.per_picture["nearest_training"] == ["0-red.png"]


def test_nothing_is_kept_of_the_pictures_before():
    found = scorer(known("white"), known("white", "red"))
    first = found.score(Pictures(pictures("red", "lime"), "aa"), Notes())
    found.score(Pictures(pictures("white"), "b"), Notes())
    assert found.score(Pictures(pictures("red", "lime"), "aa"), Notes()) == first
