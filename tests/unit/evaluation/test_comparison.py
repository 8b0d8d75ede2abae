"""Scores of several models side by side: table cells, and the gap closed by hand."""

import io

import pytest
from rich.console import Console

from sdlora.config.score_kinds import KINDS
from sdlora.evaluation.comparison import gap_closed, score_table
from sdlora.evaluation.scores import Scores


def scores(distance, faceless, clip, **reasons) -> Scores:
    values = {"face_distance": distance, "faceless": faceless, "clip_score": clip}
    return Scores(4, values, reasons, {}, {"prompt": ["a"], "face_distance": [distance]})


@pytest.mark.parametrize(
    ("base", "now", "floor", "closed"),
    [
        (1.2, 0.8, 0.7, 0.8),  # 0.4 of 0.5
        (1.2, 1.2, 0.7, 0.0),
        (1.2, 1.3, 0.7, -0.2),
        (1.2, 0.7, 0.7, 1.0),
        (None, 1.0, 0.5, None),
        (1.2, None, 0.5, None),
        (1.2, 1.0, None, None),
        (0.7, 0.6, 0.7, None),  # no gap to close
    ],
)
def test_gap_closed_by_hand(base, now, floor, closed):
    got = gap_closed(base, now, floor)
    assert got == (None if closed is None else pytest.approx(closed))


def shown(table, width: int = 200) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines()]


def flowing(lines: list[str]) -> str:
    """In one line: what stands below a table is as wide as the table."""
    return " ".join(" ".join(lines).split())


def cells(lines: list[str], header: str) -> list[str]:
    """Of the one line that begins with these words, without them."""
    (line,) = [line.strip() for line in lines if line.strip().startswith(header)]
    return [cell.strip() for cell in line.removeprefix(header).split("  ") if cell.strip()]


def test_table_has_a_line_for_each_score_and_a_column_for_each_model():
    lines = shown(
        score_table(
            {"base": scores(1.2, 0, 30.0), "LoRA": scores(0.8, 2, 31.5)},
            floor=scores(0.7, 0, None, clip_score="there are no prompts to compare with"),
        )
    )
    assert cells(lines, "base") == ["LoRA", "real pictures"]
    assert cells(lines, "pictures") == ["4", "4", "4"]
    assert cells(lines, "face distance ↓") == ["1.200", "0.800", "0.700"]
    assert cells(lines, "faceless ↓") == ["0", "2", "0"]
    assert cells(lines, "CLIP score ↑") == ["30.00", "31.50", "none"]
    assert cells(lines, "gap closed ↑") == ["-", "80%", "-"]
    told = "real pictures: no CLIP score (there are no prompts to compare with)"
    assert flowing(lines).count(told) == 1


def test_table_shows_half_of_intervals_and_only_scores_that_a_model_has():
    values = {"face_distance": 0.465, "several_faces": 1, "copying": 0.25, "my_own": 7.0}
    row = Scores(4, values, {}, {"face_distance": (0.43, 0.49), "copying": (0.25, 0.25)})
    base = scores(1.2, 0, 30.0, diversity="no prompt was drawn with two seeds")
    lines = shown(score_table({"base": base, "LoRA": row}))
    assert cells(lines, "face distance ↓") == ["1.200", "0.465 ± 0.030"]
    assert cells(lines, "copying ↓") == ["-", "0.250"]
    assert cells(lines, "several faces") == ["-", "1"]
    assert cells(lines, "my own") == ["-", "7.000"]
    assert not [line for line in lines if line.strip().startswith("diversity")]
    order = [line for line in lines if line.strip().startswith(("several", "CLIP", "my own"))]
    assert [line.split()[0] for line in order] == ["several", "CLIP", "my"]


def test_a_reason_that_all_models_share_stands_once():
    why = {"copying": "no training pictures"}
    own = {**why, "clip_score": "no prompts"}
    lines = shown(
        score_table({"base": scores(1.2, 0, None, **own), "LoRA": scores(1, 0, 1, **why)})
    )
    told = "no copying (no training pictures) base: no CLIP score (no prompts)"
    assert flowing(lines).endswith(" " + told)
    assert flowing(lines).count("no training pictures") == 1


def test_up_to_four_models_are_columns_and_more_are_lines():
    rows = {f"step {number}": scores(number / 10, 0, 30.0) for number in range(1, 5)}
    assert cells(shown(score_table(rows)), "face distance ↓") == [
        "0.100",
        "0.200",
        "0.300",
        "0.400",
    ]
    lines = shown(score_table(rows, floor=scores(0.0, 0, 30.0)))
    # a model a line, four scores a table
    found = [line.split() for line in lines if line.strip().startswith("step 2")]
    assert found == [["step", "2", "4", "0.200", "0", "30.00"], ["step", "2", "-100%"]]
    real = [line.split()[2:] for line in lines if line.strip().startswith("real pictures")]
    assert real == [["4", "0.000", "0", "30.00"], ["-"]]
    (header,) = [line for line in lines if "face distance ↓" in line]
    assert "CLIP score ↑" in header
    assert "gap closed ↑" not in header


def everything(value: float, half: float) -> Scores:
    """Every score there is, each mean with an interval."""
    means = [name for name, look in KINDS.items() if look.digits]
    values = {name: value if name in means else 100 for name in KINDS}
    return Scores(100, values, {}, {name: (value - half, value + half) for name in means})


def test_table_loses_nothing_in_80_columns():
    rows = {"base": everything(0.123, 0.045), "best, step 75": everything(0.234, 0.056)}
    rows["LoRA"] = everything(0.345, 0.067)
    lines = shown(score_table(rows, floor=everything(0.456, 0.078)), 80)
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    numbers = "0.123 ± 0.045  0.234 ± 0.056  0.345 ± 0.067  0.456 ± 0.078"
    assert sum(numbers in line for line in lines) == sum(k.digits == 3 for k in KINDS.values())
    for look in KINDS.values():
        assert len(cells(lines, f"{look.title} {look.arrow}".strip())) == 4


def test_table_without_floor_has_no_gap_and_needs_a_row():
    assert not [
        line for line in shown(score_table({"base": scores(1.2, 0, 30.0)})) if "gap" in line
    ]
    with pytest.raises(ValueError, match="no scores"):
        score_table({})


def test_missing_score_is_never_zero():
    base = scores(None, None, None, face_distance="no weights")
    lines = shown(score_table({"base": base, "LoRA": scores(0.5, 1, None)}))
    assert "0.0" not in "".join(lines)
    assert cells(lines, "face distance ↓") == ["none", "0.500"]
    assert flowing(lines).endswith(" base: no face distance (no weights)")


def test_without_a_base_there_is_no_gap():
    rows = {"a": scores(1.2, 0, 30.0), "b": scores(0.8, 0, 30.0)}
    floor = scores(0.7, 0, 30.0)
    assert any("gap closed" in line for line in shown(score_table(rows, floor=floor)))
    lines = shown(score_table(rows, floor=floor, has_base=False))
    assert not any("gap closed" in line for line in lines)
    assert cells(lines, "a") == ["b", "real pictures"]


def test_long_names_are_whole():
    names = [f"a-long-name-of-a-folder-of-pictures-that-somebody-drew-{n}" for n in (1, 2)]
    lines = shown(score_table({name: scores(1.2, 0, 30.0) for name in names}), width=60)
    columns = list(zip(*(line.ljust(60) for line in lines), strict=True))
    letters = "".join("".join(column) for column in columns)
    assert letters  # below: read down, each name is there letter by letter
    head = " ".join(" ".join(lines).split())
    assert "…" not in head
    assert head.count("1") > 0
    assert "-2" in head.replace(" ", "")
