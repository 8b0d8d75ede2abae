"""The line of a step: its scores beside the base's."""

from sdlora.evaluation.evaluated import Evaluation, short_scores
from sdlora.evaluation.scores import Scores


def test_identity_and_prompt_stand_beside_the_bases() -> None:
    base = Evaluation([], [], Scores(2, {"face_distance": 1.322, "clip_score": 86.0}))
    values = {"face_distance": 0.551, "clip_score": None, "prompt_followed": 1.0, "faceless": 0}
    assert list(short_scores(Evaluation([], [], Scores(2, values)), base)) == [
        "face 0.55 (base 1.32)",
        "prompts 100%",
    ]
    assert list(short_scores(Evaluation([], []), base)) == []  # a preview
    unscored = Evaluation([], [])
    similar = Evaluation([], [], Scores(2, {"image_similarity": 0.5}))
    assert list(short_scores(similar, unscored)) == ["image 0.50"]
