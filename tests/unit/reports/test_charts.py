"""The charts of ``report.html``: which there are, and what they draw."""

import json
from collections.abc import Sequence
from typing import Any

from sdlora.reports.charts import COLORS, charts, state_charts
from sdlora.reports.score_tables import State

LINES = (
    {"step": 0, "base/face_distance": 1.3, "base/face_distance_low": 1.2, "base/clip_score": 86.0},
    {"step": 10, "train/loss": 0.5},
    {"step": 75, "eval/face_distance": 0.8, "eval/clip_score": 88.0, "eval/aesthetic": None},
    {"step": 150, "eval/face_distance": 0.5, "eval/clip_score": None, "reasons": {}},
    {"step": 150, "train/loss": 0.4},
)


def test_charts_are_those_that_the_numbers_give() -> None:
    assert [chart.name for chart in charts(LINES, 75)] == [
        "face_distance",
        "clip_score",
        "trade_off",
        "loss",
    ]
    assert [chart.name for chart in charts(LINES[:2], None)] == ["loss"]
    assert charts([], None) == []


def test_the_held_out_loss_has_charts_of_its_own() -> None:
    names = ["val/loss", *(f"val/loss_q{number}" for number in range(1, 5)), "val/gap"]
    lines = [{"step": step, **dict.fromkeys(names, 0.1 / (1 + step))} for step in (0, 10)]
    made = {chart.name: json.dumps(chart.item) for chart in charts(lines, None)}
    assert list(made) == ["loss", "val_loss", "val_quarters", "val_gap"]
    for label in ("least noise", "2nd", "3rd", "most noise"):
        assert label in made["val_quarters"]


def banded(name: str, steps: Sequence[int] = (75, 150)) -> list[dict[str, Any]]:
    base = {f"base/{name}": 1.3, f"base/{name}_low": 1.2, f"base/{name}_high": 1.4}
    lines = [
        {"step": step, f"eval/{name}": 50 / step, f"eval/{name}_low": 0.1, f"eval/{name}_high": 0.9}
        for step in steps
    ]
    return [{"step": 0, **base}, *lines]


def test_a_score_has_bands_and_the_base_is_flat() -> None:
    (chart,) = charts(banded("own_score"), None)
    drawn = json.dumps(chart.item)
    assert (chart.name, chart.title, chart.is_minor) == ("own_score", "Own score", True)
    assert drawn.count('"VArea"') >= 2  # of the LoRA and of the base
    assert "[0.9, 0.9]" in drawn
    assert "[1.3, 1.3]" in drawn
    (single,) = charts(banded("face_distance", steps=[75]), None)
    assert '"Segment"' in json.dumps(single.item)  # a band of one step has no width
    assert not single.is_minor


def test_a_score_that_never_moves_is_minor() -> None:
    lines = [{"step": step, "base/faceless": 0, "eval/faceless": 0} for step in (0, 10)]
    (chart,) = charts(lines, None)
    assert chart.is_minor


def test_a_long_curve_is_averaged() -> None:
    lines = [{"step": step, "train/loss": float(step)} for step in range(1, 5001)]
    assert len(json.dumps(charts(lines, None)[0].item)) < 60_000


def test_the_trade_off_of_states_shows_their_intervals() -> None:
    values = {"face_distance": 0.5, "clip_score": 86.0}
    ends = {"face_distance": (0.4375, 0.625)}
    base, lora = State("base", values, ends), State("my_lora x0.6", values)
    real = State("real pictures", values, is_real=True)
    (chart,) = state_charts([base, lora, real])
    drawn = json.dumps(chart.item)
    assert '"Segment"' in drawn
    assert "[0.4375]" in drawn
    assert '"my_lora x0.6"' in drawn
    assert '"real pictures"' not in drawn
    assert state_charts([State("base", {"face_distance": 1.0})]) == []
    assert state_charts([]) == []


def test_states_have_colours_until_they_are_too_many() -> None:
    values = {"face_distance": 0.5, "clip_score": 86.0}
    states = [State(f"LoRA {number}", values) for number in range(len(COLORS) + 2)]
    (few,), (many,) = state_charts(states[:-1]), state_charts(states)
    assert all(color in json.dumps(few.item) for color in COLORS)
    assert COLORS[1] not in json.dumps(many.item)
    assert few.height_px > many.height_px  # its legend is a list
