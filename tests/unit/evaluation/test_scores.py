"""Scores come back from JSON as they were."""

import json
from dataclasses import asdict

import pytest

from sdlora.evaluation.scores import Scores, scores_from

SCORES = Scores(
    num_pictures=2,
    values={"face_distance": 0.1 + 0.2, "faceless": 1, "clip_score": None},
    reasons={"clip_score": "no CLIP model"},
    intervals={"face_distance": (0.25, 1 / 3)},
    per_picture={"prompt": ["ein Hütchen", "b"], "num_faces": [1, 0], "face_distance": [0.1, 0.5]},
)


def test_scores_come_back_from_json():
    again = scores_from(json.loads(json.dumps(asdict(SCORES))))
    assert again == SCORES
    assert isinstance(again.values["faceless"], int)
    assert again.intervals["face_distance"] == (0.25, 1 / 3)
    assert scores_from(json.loads(json.dumps(asdict(Scores(3))))) == Scores(3)


@pytest.mark.parametrize(
    "damage",
    [
        {"values": None},
        {"intervals": {"face_distance": [0.5]}},
        {"intervals": {"face_distance": None}},
        {"num_pictures": "many"},
        {"reasons": 3},
    ],
)
def test_another_shape_is_an_error(damage):
    with pytest.raises((KeyError, TypeError, ValueError)):
        scores_from(asdict(SCORES) | damage)
    with pytest.raises(KeyError):
        scores_from({name: v for name, v in asdict(SCORES).items() if name not in damage})
