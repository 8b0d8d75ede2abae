"""The best checkpoint by hand: the lowest distance among those that still follow their prompts."""

import pytest

from sdlora.config.score_kinds import HIGHER, KINDS
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


@pytest.mark.parametrize(
    ("clip", "margin", "follows"),
    [
        (31.0, 0.0, True),  # better than the base
        (90.0, 1.0, True),
        (30.0, 0.0, True),
        (29.0, 1.0, True),  # exactly at the bound
        (28.984375, 1.0, False),
        (29.984375, 0.0, False),
        (-30.0, 60.0, True),
        (None, 0.0, True),
    ],
)
def test_the_margin_bounds_a_fall_alone(clip: float | None, margin: float, follows: bool) -> None:
    rule = Rule("face_distance", margin)
    assert rule.follows_prompts(scores(0.5, clip), BASE) is follows
    assert (rule.cost(scores(0.5, clip), BASE) is not None) is follows
    assert rule.follows_prompts(scores(0.5, clip), scores(1.4, None))


@pytest.mark.parametrize("name", [name for name, each in KINDS.items() if each.selects])
def test_a_better_score_costs_less_in_its_own_direction(name: str) -> None:
    rule, base = Rule(name, 100.0), Scores(4, {})
    less, more = (rule.cost(Scores(4, {name: value}), base) for value in (0.25, 0.75))
    assert less is not None
    assert more is not None
    assert (more < less) is (KINDS[name].arrow == HIGHER)
    assert {abs(less), abs(more)} == {0.25, 0.75}
