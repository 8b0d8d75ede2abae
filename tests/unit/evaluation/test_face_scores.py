"""Face scores of pictures by hand: a colour is a face at a known angle."""

import math

import pytest

from sdlora.evaluation.face_scores import FaceScorer
from sdlora.evaluation.scoring import KnownPictures, Pictures, Unavailable
from sdlora.evaluation.strangers import Stranger
from tests.unit.evaluation.colours import ColourFaces, Notes, known, pictures, score

ROOT = math.sqrt(2)


def test_distances_and_cosines_by_hand():
    found = score(FaceScorer(ColourFaces(), known("white")), "white", "red", "lime", "black")
    assert found.values == {
        "face_distance": pytest.approx((0 + ROOT + 2 + ROOT) / 4, abs=1e-6),
        "face_cosine": pytest.approx((1 + 0 - 1 + 0) / 4, abs=1e-6),
        "faceless": 1,
        "several_faces": 0,
    }
    assert found.per_picture["face_distance"] == pytest.approx([0, ROOT, 2, ROOT])
    assert found.per_picture["face_cosine"] == pytest.approx([1, 0, -1, 0])
    assert found.per_picture["num_faces"] == [1, 1, 1, 0]
    assert set(found.intervals) == {"face_distance", "face_cosine"}
    for name, (low, high) in found.intervals.items():
        assert low < found.values[name] < high


def test_a_picture_without_a_face_counts_as_strangers_do_by_the_network():
    near = Stranger(distance=0.5, cosine=0.875)
    found = score(FaceScorer(ColourFaces(near), known("white")), "white", "black")
    assert found.per_picture["face_distance"] == pytest.approx([0, 0.5])
    assert found.per_picture["face_cosine"] == pytest.approx([1, 0.875])


def test_where_strangers_are_not_known_no_faceless_picture_is_averaged():
    scorer = FaceScorer(ColourFaces(None), known("white"), known("red"))
    found = score(scorer, "white", "black", "red")
    missing = {name: found.reasons[name] for name in sorted(found.reasons)}
    assert set(missing) == {
        f"face_{each}{ending}" for each in ("distance", "cosine") for ending in ("", "_training")
    }
    assert found.values["face_distance"] is None
    assert found.values["faceless"] == 1
    assert missing["face_distance"].startswith("1 of 3 pictures show no face, and it is not known")
    assert score(scorer, "white", "red").values["face_distance"] == pytest.approx(ROOT / 2)


def test_the_mean_is_over_all_references():
    found = score(FaceScorer(ColourFaces(), known("white", "red", "lime")), "white")
    assert found.values["face_distance"] == pytest.approx((0 + ROOT + 2) / 3, abs=1e-6)
    assert found.values["face_cosine"] == pytest.approx(0, abs=1e-6)


def test_pictures_with_several_faces_are_counted():
    found = score(FaceScorer(ColourFaces(), known("red")), "yellow", "red", "black", "yellow")
    assert found.values["several_faces"] == 2
    assert found.values["faceless"] == 1
    assert found.per_picture["num_faces"] == [2, 1, 0, 2]
    assert found.values["face_distance"] == pytest.approx(ROOT / 4)  # one of two is the person's


def test_faces_are_compared_with_the_training_pictures_beside():
    scorer = FaceScorer(ColourFaces(), known("white"), known("red", "lime"))
    found = score(scorer, "red", "black")
    assert found.values == {
        "face_distance": pytest.approx((ROOT + ROOT) / 2),
        "face_cosine": pytest.approx(0, abs=1e-6),
        "face_distance_training": pytest.approx(((0 + ROOT) / 2 + ROOT) / 2),
        "face_cosine_training": pytest.approx(((1 + 0) / 2 + 0) / 2),
        "faceless": 1,
        "several_faces": 0,
    }
    assert found.per_picture["face_cosine_training"] == pytest.approx([0.5, 0])
    assert "face_distance_training" in found.intervals


@pytest.mark.parametrize("are_training", [True, False])
def test_likeness_to_training_says_nothing_of_training_pictures(are_training):
    scorer = FaceScorer(ColourFaces(), known("white"), known("red"))
    found = score(scorer, "red", are_training=are_training)
    assert ("face_distance_training" in found.values) is not are_training
    assert ("face_cosine_training" in found.per_picture) is not are_training
    assert found.values["face_distance"] == pytest.approx(ROOT)
    assert found.reasons == {}


def test_known_pictures_are_embedded_once_and_faceless_ones_named_once():
    face, notes = ColourFaces(), Notes()
    scorer = FaceScorer(face, known("white", "black", "white"), known("black", "red"))
    assert face.num_embedded == 0
    first = scorer.score(Pictures(pictures("red")), notes)
    assert face.num_embedded == 3 + 2 + 1
    again = scorer.score(Pictures(pictures("red")), notes)
    assert face.num_embedded == 3 + 2 + 1 + 1
    assert again.values == first.values
    assert first.values["face_distance"] == pytest.approx(ROOT)
    assert first.values["face_distance_training"] == 0
    assert notes.printed == [
        "note: 1 of 3 references show no face and are left out of the face scores: 1-black.png",
        "note: 1 of 2 training pictures show no face and are left out of the face scores: "
        "0-black.png",
    ]


def test_faceless_training_pictures_cost_no_other_score():
    found = score(FaceScorer(ColourFaces(), known("white"), known("black")), "white")
    assert found.values["face_distance"] == 0
    assert "face_distance_training" not in found.values


@pytest.mark.parametrize(
    ("references", "reason"),
    [
        (KnownPictures(), "there are no reference pictures to compare with"),
        (known("black", "black"), "none of the 2 references shows a face"),
    ],
)
def test_nothing_to_compare_with_has_a_reason(references, reason):
    with pytest.raises(Unavailable, match=reason):
        score(FaceScorer(ColourFaces(), references), "red")


def test_pictures_without_any_face_are_strangers():
    found = score(FaceScorer(ColourFaces(), known("white")), "black", "black")
    assert found.values["face_distance"] == pytest.approx(ROOT)
    assert found.values["face_cosine"] == 0
    assert found.values["faceless"] == 2
