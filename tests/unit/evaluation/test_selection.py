"""The best checkpoint by hand: the lowest distance among those that still follow their prompts."""

import pytest

from sdlora.evaluation.scores import Scores
from sdlora.evaluation.selection import Rule


def scores(face_distance: float | None, clip_score: float | None) -> Scores:
    return Scores(4, {"face_distance": face_distance, "faceless": 0, "clip_score": clip_score})


BASE = scores(1.4, 30.0)


@pytest.mark.parametrize(
    ("rule", "candidates", "chosen"),
    [
        (Rule("face_distance", 1.0), [(0.9, 30.0), (0.5, 29.5), (0.7, 31.0)], 1),
        # the closest face no longer draws what it is asked for
        (Rule("face_distance", 1.0), [(0.9, 30.0), (0.5, 28.9), (0.7, 29.0)], 2),
        (Rule("face_distance", 0.0), [(0.9, 30.0), (0.5, 29.9)], 0),
        (Rule("face_distance", 1.0), [(0.9, None), (0.5, None)], 1),
        (Rule("face_distance", 1.0), [(None, 30.0), (None, 31.0)], None),
        (Rule("face_distance", 1.0), [(0.5, 20.0)], None),
        (Rule("clip_score", 1.0), [(0.9, 30.0), (0.5, 29.5), (0.7, 31.0)], 2),
        (Rule("clip_score", 1.0), [(0.9, None)], None),
    ],
)
def test_the_rule_by_hand(
    rule: Rule, candidates: list[tuple[float | None, float | None]], chosen: int | None
) -> None:
    costs = {
        number: cost
        for number, values in enumerate(candidates)
        if (cost := rule.cost(scores(*values), BASE)) is not None
    }
    assert (min(costs, key=costs.__getitem__) if costs else None) == chosen


def test_a_score_that_nobody_asked_for_is_no_condition_and_chooses_nothing() -> None:
    without_clip = Scores(4, {"face_distance": 0.5})
    assert Rule("face_distance", 0.0).cost(without_clip, BASE) == 0.5
    assert Rule("face_distance", 0.0).cost(scores(0.5, 1.0), without_clip) == 0.5
    assert Rule("clip_score", 0.0).cost(without_clip, without_clip) is None


def test_of_the_image_similarity_more_is_better() -> None:
    rule, base = Rule("image_similarity", 20.0), Scores(4, {"clip_score": 80.0})
    found = [{"image_similarity": 0.25, "clip_score": 60.0}, {"image_similarity": 0.5}]
    found += [{"image_similarity": 0.75, "clip_score": 59.0}]  # more than 20 below
    assert [rule.cost(Scores(4, values), base) for values in found] == [-0.25, -0.5, None]


def test_of_the_kernel_distance_less_is_better() -> None:
    rule, base = Rule("kid", 1.0), Scores(4, {"kid": 3.0})
    costs = [rule.cost(Scores(4, {"kid": value}), base) for value in (0.5, -0.1, None)]
    assert costs == [0.5, -0.1, None]
