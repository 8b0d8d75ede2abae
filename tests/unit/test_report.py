"""What a person looks at: grid pixels, table cells, metrics lines that survive a kill."""

import io
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from sdlora.metrics.scoring import PictureScores, Scores
from sdlora.report import (
    append_metrics,
    forget_metrics_after,
    gap_closed,
    grid,
    read_metrics,
    score_table,
    write_report_json,
)


def scores(distance, faceless, clip, **reasons) -> Scores:
    return Scores(4, distance, faceless, clip, reasons, (PictureScores("a", distance, True, clip),))


def test_grid_places_every_picture_enlarged_by_whole_pixels():
    rows = [[Image.new("RGB", (64, 64), c) for c in row] for row in (("red", "lime"), ("blue",))]
    rows[0][0].putpixel((0, 0), (1, 2, 3))
    sheet = grid(rows, ["base", "LoRA"], ["a cat", "a man with a very long red hat " * 9])
    cell = 128 + 4
    left, top = sheet.width - 2 * cell, sheet.height - 2 * cell
    corner = sheet.crop((left, top, left + 3, top + 2))
    assert corner.getpixel((1, 1)) == (1, 2, 3)  # one pixel became 2 x 2
    assert corner.getpixel((2, 1)) == (255, 0, 0)
    assert sheet.getpixel((left + 64, top + 64)) == (255, 0, 0)
    assert sheet.getpixel((left + cell + 64, top + 64)) == (0, 255, 0)
    assert sheet.getpixel((left + 64, top + cell + 64)) == (0, 0, 255)
    assert sheet.getpixel((left + cell + 64, top + cell + 64)) == (255, 255, 255)
    labels = sheet.crop((0, top, left, sheet.height)).convert("L")
    headers = sheet.crop((left, 0, sheet.width, top)).convert("L")
    assert labels.getextrema()[0] < 64  # something is written there
    assert headers.getextrema()[0] < 64
    assert top < 130  # a long prompt is cut


def test_grid_keeps_large_pictures_and_odd_shapes():
    sheet = grid(
        [[Image.new("RGB", (300, 200), "red"), None, Image.new("L", (32, 64))]], ["x"], "abc"
    )
    assert sheet.height > 200
    assert sheet.width > 3 * 300


@pytest.mark.parametrize(
    ("rows", "labels", "columns"),
    [([], [], []), ([[None]], ["a"], ["b"]), ([["red"]], [], ["b"]), ([["red"] * 2], ["a"], ["b"])],
)
def test_grid_that_does_not_fit_is_an_error(rows, labels, columns):
    rows = [[c and Image.new("RGB", (8, 8), c) for c in row] for row in rows]
    with pytest.raises(ValueError, match=r"grid|rows"):
        grid(rows, labels, columns)


@pytest.mark.parametrize("label", ["", "   ", "Ärger 猫 🐈", "x" * 500, "two\nlines"])
def test_grid_survives_any_label(label):
    grid([[Image.new("RGB", (8, 8))]], [label], [label])


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


def shown(table) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_table_compares_with_the_first_row():
    text = shown(
        score_table(
            {"base": scores(1.2, 0, 30.0), "LoRA": scores(0.8, 2, 31.5)},
            floor=scores(0.7, 0, None, clip_score="there are no prompts to compare with"),
        )
    )
    lora = next(line for line in text.splitlines() if "LoRA" in line)
    assert "0.800 (-0.400)" in lora
    assert "2 (+2)" in lora
    assert "31.50 (+1.50)" in lora
    assert "80%" in lora
    real = next(line for line in text.splitlines() if "real pictures" in line and "0.700" in line)
    assert "none" in real
    assert "face distance ↓" in text
    assert "CLIP score ↑" in text
    assert "real pictures: no clip_score (there are no prompts to compare with)" in text


def test_table_shows_intervals_and_the_further_scores_that_a_row_has():
    row = Scores(4, 0.465, 0, 30.0, copying=0.25, intervals={"face_distance": (0.43, 0.49)})
    text = shown(score_table({"base": scores(1.2, 0, 30.0, diversity="one seed"), "LoRA": row}))
    assert "0.465 ± 0.030 (-0.735)" in text
    assert "copying ↓" in text
    assert "0.250" in text
    assert "varied" not in text


def test_table_loses_no_number_in_80_columns():
    ends = {"face_distance": (1.1, 1.3), "clip_score": (80.0, 81.0), "image_similarity": (0.1, 0.2)}
    further = {"image_similarity": 0.15, "diversity": 0.5, "copying": 0.25, "intervals": ends}
    rows = {
        "base": Scores(25, 1.2, 0, 85.0, **further),
        "LoRA": Scores(25, 0.5, 1, 86.0, **further),
    }
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(score_table(rows, floor=Scores(24, 0.182, 0, 87.0, **further)))
    text = console.export_text()
    assert "…" not in text
    assert "(-0.700)" in text


def test_table_without_floor_has_no_gap_and_needs_a_row():
    assert "gap" not in shown(score_table({"base": scores(1.2, 0, 30.0)}))
    with pytest.raises(ValueError, match="no scores"):
        score_table({})


def test_missing_score_is_never_zero():
    text = shown(score_table({"base": scores(None, None, None, face_distance="no weights")}))
    assert "0.0" not in text
    assert "base: no face_distance (no weights)" in text


def test_metrics_lines_come_back(tmp_path: Path):
    path = tmp_path / "run" / "metrics.jsonl"
    assert read_metrics(path) == []
    append_metrics(path, 0, {"loss": torch.tensor(0.5), "text": "Ä"})
    append_metrics(path, 10, {"loss": float("nan"), "lr": math.inf, "clip": None}, {"clip": "off"})
    assert read_metrics(path) == [
        {"step": 0, "loss": 0.5, "text": "Ä"},
        {
            "step": 10,
            "loss": None,
            "lr": None,
            "clip": None,
            "reasons": {"clip": "off", "loss": "the value is nan", "lr": "the value is inf"},
        },
    ]
    for line in path.read_text("utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("kept", range(0, 40, 3))
def test_a_line_cut_by_a_kill_is_passed_over_and_then_replaced(tmp_path: Path, kept):
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, 1, {"loss": 0.25, "name": "zwölf"})
    whole = path.read_bytes()
    append_metrics(path, 2, {"loss": 0.125, "name": "zwölf"})
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    assert [line["step"] for line in read_metrics(path)] == [1]
    append_metrics(path, 3, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(path)] == [1, 3]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


def test_names_the_line_uses_itself_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="'step' is taken"):
        append_metrics(tmp_path / "metrics.jsonl", 1, {"step": 2})


def test_steps_that_will_be_made_again_are_forgotten(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    forget_metrics_after(path, 5)
    assert not path.exists()
    for step in (5, 10, 15):
        append_metrics(path, step, {"loss": 1.0})
    forget_metrics_after(path, 10)
    assert [line["step"] for line in read_metrics(path)] == [5, 10]


def test_report_json_holds_everything(tmp_path: Path):
    path = tmp_path / "report.json"
    write_report_json(
        path,
        {"base": scores(1.2, 0, 30.0), "LoRA": scores(0.8, 2, None, clip_score="off")},
        settings={"lora": Path("a/b.safetensors"), "seeds": (0, 1), "loss": float("nan")},
        floor=scores(0.7, 0, None),
    )
    report = json.loads(path.read_text("utf-8"))
    assert report["settings"] == {"lora": "a/b.safetensors", "seeds": [0, 1], "loss": None}
    assert report["scores"]["LoRA"]["face_distance"] == 0.8
    assert report["scores"]["LoRA"]["clip_score"] is None
    assert report["scores"]["LoRA"]["reasons"] == {"clip_score": "off"}
    assert report["scores"]["base"]["per_picture"][0]["prompt"] == "a"
    assert report["scores"]["LoRA"]["intervals"] == {}
    assert report["gap_closed"]["LoRA"] == pytest.approx(0.8)
    assert report["gap_closed"]["base"] == 0
