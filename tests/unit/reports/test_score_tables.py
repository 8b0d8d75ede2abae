"""Tables of scores and the numbers of a picture, as ``report.html`` shows them."""

from dataclasses import asdict
from typing import Any

from sdlora.evaluation.scores import Scores
from sdlora.reports.nearest_pairs import copying
from sdlora.reports.score_tables import (
    Cell,
    Head,
    PictureScores,
    State,
    picture_scores,
    read_states,
    reasons,
    score_table,
    scored_names,
    step_table,
)


def scores_of(**values: Any) -> dict[str, Any]:
    return asdict(Scores(num_pictures=25, values=values))


def states_of(**rows: dict[str, Any]) -> list[State]:
    return read_states({"scores": rows, "gap_closed": {"LoRA": 0.75}})


def test_the_table_shows_intervals_and_which_way_is_better() -> None:
    base = scores_of(face_distance=1.25, copying=0.5, several_faces=2)
    lora = scores_of(face_distance=0.5, copying=0.5, several_faces=1)
    lora["intervals"] = {"face_distance": [0.4, 0.7]}
    table = score_table(states_of(base=base, LoRA=lora))
    assert table is not None
    assert table.columns == [Head("base"), Head("LoRA")]
    assert table.rows == [
        (Head("pictures"), [Cell("25"), Cell("25")]),
        (
            Head("face distance", "↓"),
            [
                Cell("1.250"),
                Cell("0.500", "± 0.150", "-0.750", "better", "95 %: 0.400 to 0.700"),
            ],
        ),
        (Head("several faces"), [Cell("2"), Cell("1")]),  # neither way is better
        (Head("copying", "↓"), [Cell("0.500"), Cell("0.500")]),
        (Head("gap closed", "↑"), [Cell(), Cell("75%")]),
    ]


def test_the_table_turns_where_states_are_many() -> None:
    rows = {f"LoRA {number}": scores_of(face_distance=1.0, own_score=2) for number in range(6)}
    across = score_table(states_of(**dict(list(rows.items())[:5])))
    down = score_table(states_of(**rows))
    assert across is not None
    assert down is not None
    assert [head.title for head, _ in across.rows] == ["pictures", "face distance", "own score"]
    assert [head.title for head, _ in down.rows] == list(rows)
    assert [head.title for head in down.columns] == ["pictures", "face distance", "own score"]


def test_real_pictures_are_not_compared_with_the_base() -> None:
    report = {"scores": {"base": scores_of(faceless=3)}, "real_pictures": scores_of(faceless=1)}
    table = score_table(read_states(report))
    assert table is not None
    assert table.columns == [Head("base"), Head("real pictures")]
    assert table.rows[-1][1] == [Cell("3"), Cell("1")]


def test_a_reason_is_said_once() -> None:
    base, lora = scores_of(), scores_of()
    base["reasons"] = {"kid": "too few"}
    lora["reasons"] = {"kid": "too few", "clip_score": "too few", "aesthetic": "no model"}
    assert reasons(states_of(base=base, LoRA=lora)) == [
        "no KID, CLIP score: too few",
        "no aesthetic (LoRA): no model",
    ]


def test_numbers_of_another_prompt_are_not_those_of_the_picture() -> None:
    columns = {"prompt": ["a cat"], "face_distance": [0.25], "clip_score": [31.0]}
    found = PictureScores(
        ("face 0.250", "CLIP 31.00"), "face distance 0.250, CLIP score 31.00", False
    )
    assert picture_scores(columns, 0, "a cat") == found
    assert picture_scores(columns, 0, "a dog") is None
    assert picture_scores(columns, 1, "a cat") is None
    assert picture_scores({}, 0, "a cat") is None


def test_copying_is_said_and_flagged() -> None:
    row = scores_of(copying=0.08, largest_training_similarity=0.95, copying_yardstick=0.88)
    found = copying(states_of(base=scores_of(), LoRA=row))
    assert found is not None
    assert found.is_found
    for text in ("0.950", "0.880", "8% of the 25 pictures are copies"):
        assert text in found.sentence, text
    row["values"]["copying"] = 0.0
    found = copying(states_of(base=scores_of(), LoRA=row))
    assert found is not None
    assert not found.is_found
    assert "none of the 25 pictures" in found.sentence
    other = scores_of(copying=1.0, largest_training_similarity=1.0, copying_yardstick=0.88)
    assert copying(states_of(base=scores_of(), LoRA=row, last=other)) == found
    assert copying(states_of(base=row, LoRA=scores_of())) is None
    assert copying([]) is None


def test_ends_of_intervals_are_no_scores() -> None:
    ends = {"eval/clip_score_low": 1.0, "eval/clip_score_high": 3.0}
    lines = [
        {"step": 5, "eval/own": 1.0, "eval/own_low": 0.5, "eval/own_high": 2.0},
        {"step": 9, "eval/clip_score": 2.0, **ends, "eval/very_low": 1, "eval/x": None},
    ]
    assert scored_names(lines) == ["clip_score", "own", "very_low"]


def test_scored_steps_keep_what_is_missing_missing() -> None:
    lines = [
        {"step": 0, "base/face_distance": 1.3},
        {"step": 75, "eval/face_distance": 0.8, "eval/clip_score": 88.0},
        {"step": 150, "eval/face_distance": 0.5, "eval/clip_score": None, "eval/aesthetic": None},
        {"step": 150, "train/loss": 0.4},
    ]
    table = step_table(lines, best=75)
    assert table is not None
    assert table.columns == [Head("face distance", "↓"), Head("CLIP score", "↑")]
    assert table.rows == [
        (Head("75 ★"), [Cell("0.800"), Cell("88.00")]),
        (Head("150"), [Cell("0.500"), Cell()]),
    ]
    assert step_table([], None) is None
