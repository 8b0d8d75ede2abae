"""All scores of a list of pictures: folded from several scorers, with parts of them missing."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from sdlora.evaluation.clip_metric import ClipScore
from sdlora.evaluation.clip_scores import ClipScorer
from sdlora.evaluation.face_scores import FaceScorer
from sdlora.evaluation.scoring import (
    Absent,
    KnownPictures,
    Measured,
    Pictures,
    Scorer,
    Unavailable,
)
from sdlora.runtime.progress import Progress
from tests.unit.evaluation.colours import ColourFaces, known, pictures


class BrokenFaces:
    def embed(self, images):
        raise RuntimeError("no cascade")


@dataclass
class Fixed:
    """Finds what it is told to, or raises it."""

    found: Measured | Exception
    names: Sequence[str] = ("fixed",)

    def score(self, pictures: Pictures, progress: Progress) -> Measured:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_what_scorers_find_is_put_together():
    first = Measured({"a": 1.5}, {}, {"a": (1.0, 2.0)}, {"a": [1.0, 2.0]})
    second = Measured({"b": 2, "c": None}, {"c": "too few"}, {}, {"b": [0, 2]})
    scores = Scorer([Fixed(first), Fixed(second)]).score(Pictures(pictures("red", "red"), "xy"))
    assert scores.num_pictures == 2
    assert scores.values == {"a": 1.5, "b": 2, "c": None}
    assert scores.reasons == {"c": "too few"}
    assert scores.intervals == {"a": (1.0, 2.0)}
    assert scores.per_picture == {"prompt": ["x", "y"], "a": [1.0, 2.0], "b": [0, 2]}
    assert scores.value("a") == 1.5
    assert scores.value("c") is None
    assert scores.value("never asked for") is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no cascade"), "RuntimeError: no cascade"),
        (Unavailable("there is no face"), "there is no face"),
    ],
)
def test_a_scorer_that_fails_costs_all_its_own_scores_and_no_others(error, reason):
    whole = Fixed(Measured({"b": 2.0}), ("b",))
    scores = Scorer([Fixed(error, ("a", "z")), whole]).score(Pictures(pictures("red"), ["a"]))
    assert scores.values == {"a": None, "z": None, "b": 2.0}
    assert scores.reasons == {"a": reason, "z": reason}
    assert scores.intervals == {}
    assert scores.per_picture == {"prompt": ["a"]}


def test_what_cannot_be_scored_is_none_with_a_reason_and_the_rest_is_scored(clip_folder):
    clip = ClipScorer(ClipScore(clip_folder))
    scorer = Scorer([FaceScorer(BrokenFaces(), known("white")), clip])
    scores = scorer.score(Pictures(pictures("red"), ["a"]))
    assert scores.value("clip_score") is not None
    assert scores.values == {
        **dict.fromkeys(FaceScorer.names),
        "clip_score": scores.value("clip_score"),
    }
    assert set(FaceScorer.names) == {"face_distance", "face_cosine", "faceless", "several_faces"}
    assert scores.reasons == dict.fromkeys(FaceScorer.names, "RuntimeError: no cascade")


def test_no_pictures_have_no_scores():
    face = ColourFaces()
    scores = Scorer([FaceScorer(face, known("white"))]).score(Pictures([]))
    assert scores.num_pictures == 0
    assert scores.values == dict.fromkeys(FaceScorer.names)
    assert set(scores.reasons.values()) == {"there is no picture to score"}
    assert face.num_embedded == 0


def test_real_pictures_need_no_prompts(clip_folder):
    scorer = Scorer([FaceScorer(ColourFaces(), known("white")), ClipScorer(ClipScore(clip_folder))])
    scores = scorer.score(Pictures(pictures("white")))
    assert scores.value("face_distance") == 0
    assert scores.value("clip_score") is None
    assert scores.reasons == {"clip_score": "there are no prompts to compare with"}
    assert "prompt" not in scores.per_picture


def test_a_model_that_is_not_there_gives_its_reason():
    absent = Absent(("copying", "diversity"), "no weights")
    scores = Scorer([absent]).score(Pictures(pictures("red"), ["a"]))
    assert scores.values == {"copying": None, "diversity": None}
    assert scores.reasons == {"copying": "no weights", "diversity": "no weights"}


def test_nothing_asked_for_is_nothing_found():
    scores = Scorer([]).score(Pictures(pictures("red"), ["a"]))
    assert (scores.num_pictures, scores.values, scores.reasons) == (1, {}, {})


def test_numbers_must_agree():
    with pytest.raises(ValueError, match="1 pictures but 2 prompts"):
        Pictures(pictures("red"), ["a", "b"])
    with pytest.raises(ValueError, match="1 pictures but 0 names"):
        KnownPictures([], pictures("red"))
