"""``report.json``: what was measured, and read back."""

import json
from pathlib import Path

import pytest

from sdlora.evaluation.scores import Scores, scores_from
from sdlora.runs.report import REPORT, read_scores, write_report


def scores(distance, faceless, clip, **reasons) -> Scores:
    values = {"face_distance": distance, "faceless": faceless, "clip_score": clip}
    return Scores(4, values, reasons, {}, {"prompt": ["a"], "face_distance": [distance]})


def test_report_json_holds_everything(tmp_path: Path):
    interval = {"face_distance": (0.75, 0.875)}
    values = {"face_distance": 0.8, "faceless": 2, "clip_score": None}
    lora = Scores(4, values, {"clip_score": "off"}, interval, {"prompt": ["a"], "num_faces": [1]})
    write_report(
        tmp_path,
        {"base": scores(1.2, 0, 30.0), "LoRA": lora},
        settings={"lora": Path("a/b.safetensors"), "seeds": (0, 1), "loss": float("nan")},
        floor=scores(0.7, 0, None),
        pictures={"base": "base", "LoRA": "lora"},
    )
    report = json.loads((tmp_path / REPORT).read_text("utf-8"))
    assert set(report) == {
        "version",
        "settings",
        "scores",
        "real_pictures",
        "gap_closed",
        "pictures",
    }
    assert report["version"] == 2
    assert report["settings"] == {"lora": "a/b.safetensors", "seeds": [0, 1], "loss": None}
    assert scores_from(report["scores"]["LoRA"]) == lora
    assert scores_from(report["scores"]["base"]) == scores(1.2, 0, 30.0)
    assert scores_from(report["real_pictures"]) == scores(0.7, 0, None)
    assert report["gap_closed"] == {"base": None, "LoRA": pytest.approx(0.8)}
    assert report["pictures"] == {"base": "base", "LoRA": "lora"}
    assert read_scores(tmp_path) == {"base": scores(1.2, 0, 30.0), "LoRA": lora}


def test_a_folder_without_a_report_has_no_scores(tmp_path: Path):
    assert read_scores(tmp_path) == {}


def test_report_json_of_pictures_alone(tmp_path: Path):
    write_report(tmp_path, {"pictures": scores(0.5, 0, float("nan"))}, settings={})
    report = json.loads((tmp_path / REPORT).read_text("utf-8"))
    assert report["scores"]["pictures"]["values"]["clip_score"] is None
    assert report["real_pictures"] is None
    assert report["gap_closed"] == {"pictures": None}
    assert report["pictures"] == {}


def test_without_a_base_no_gap_is_closed(tmp_path: Path):
    rows = {"a": scores(1.2, 0, 30.0), "b": scores(0.8, 0, 30.0)}
    write_report(tmp_path, rows, settings={}, floor=scores(0.7, 0, 30.0), has_base=False)
    report = json.loads((tmp_path / REPORT).read_text("utf-8"))
    assert report["gap_closed"] == {"a": None, "b": None}
