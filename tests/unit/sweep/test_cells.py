"""Reading a sweep's folder: all that is there, and nothing that breaks it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdlora.sweep.cells import (
    NOT_BEGUN,
    SweepError,
    read_sweep,
    swept_values,
    value_text,
)
from sdlora.sweep.state import DONE, FAILED, RUNNING
from tests.sweep_folders import write_cell, write_json, write_state, write_sweep


def test_a_finished_cell_is_read_whole(tmp_path: Path) -> None:
    (folder,) = write_sweep(tmp_path, [{"lora.r": 2, "optim.unet_lr": 0.001}])
    write_cell(folder, 0.5, final_face=0.75)
    (cell,) = read_sweep(tmp_path).cells
    assert (cell.state, cell.seconds, cell.peak_memory_mib) == (DONE, 61.0, 900.5)
    assert (cell.file_bytes, cell.trainable_parameters) == (2**20, None)
    assert cell.name == "lora.r=2, optim.unet_lr=0.001"
    assert cell.base is not None
    assert cell.base.value("face_distance") == 1.25
    assert cell.final is not None
    assert cell.final.value("face_distance") == 0.75
    assert cell.best is not None
    assert (cell.best.step, cell.best.scores.value("face_distance")) == (10, 0.5)
    assert cell.chosen is cell.best
    assert cell.at("trainer.max_steps") == 20
    assert cell.at("trainer.max_steps.more") is None
    assert (cell.last_step, cell.notes) == (20, [])


def test_a_cell_without_a_best_step_is_taken_at_its_last(tmp_path: Path) -> None:
    (folder,) = write_sweep(tmp_path, [{"lora.r": 2}])
    write_cell(folder, 0.5, final_face=0.75)
    (folder / "lora" / "scores.json").unlink()
    (cell,) = read_sweep(tmp_path).cells
    assert cell.chosen is not None
    assert (cell.chosen.step, cell.chosen.scores.value("face_distance")) == (20, 0.75)


def test_cells_that_are_not_done_say_so(tmp_path: Path) -> None:
    failed, running, cut, _ = write_sweep(tmp_path, [{"lora.r": rank} for rank in (1, 2, 3, 4)])
    write_state(failed, "failed", "OutOfMemoryError: 3 GiB", seconds=3.0)
    write_state(running, "running")
    running.joinpath("metrics.jsonl").write_text('{"step": 1}\n{"step": 2', encoding="utf-8")
    cut.mkdir()
    cut.joinpath("cell.json").write_text('{"state": "do', encoding="utf-8")
    cells = read_sweep(tmp_path).cells
    assert [cell.state for cell in cells] == [FAILED, RUNNING, RUNNING, NOT_BEGUN]
    assert cells[0].reason == "OutOfMemoryError: 3 GiB"
    assert cells[1].last_step == 1
    assert "cell.json cannot be read" in cells[2].notes[0]
    assert not cells[3].notes


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("report.json", '{"scores": {"base": {', "report.json cannot be read"),
        ("report.json", '{"scores": {"base": 3, "LoRA": {}}}', "the scores of LoRA have another"),
        ("config.json", "", "config.json cannot be read"),
        ("metrics.jsonl", "no json\n", "metrics.jsonl cannot be read"),
    ],
)
def test_damaged_files_are_notes(tmp_path: Path, name: str, content: str, note: str) -> None:
    (folder,) = write_sweep(tmp_path, [{"lora.r": 2}])
    write_cell(folder)
    (folder / name).write_text(content, encoding="utf-8")
    (cell,) = read_sweep(tmp_path).cells
    assert any(note in found for found in cell.notes)
    assert cell.best is not None


def test_what_is_no_number_is_not_known(tmp_path: Path) -> None:
    (folder,) = write_sweep(tmp_path, [{"lora.r": 2}])
    write_cell(folder)
    write_state(folder, "done", seconds=float("nan"), file_bytes="many")
    for name in ("lora/scores.json", "report.json"):
        text = (
            (folder / name)
            .read_text("utf-8")
            .replace('"face_distance": 0.5', '"face_distance": "x"')
        )
        (folder / name).write_text(text, encoding="utf-8")
    (cell,) = read_sweep(tmp_path).cells
    assert (cell.seconds, cell.file_bytes) == (None, None)
    assert cell.best is not None
    assert cell.best.scores.values == {"clip_score": 86.0}
    assert cell.final is not None
    assert cell.final.values == {"clip_score": 86.0}


def test_values_that_only_cells_have_come_last(tmp_path: Path) -> None:
    """As a search leaves them: no list of values, but cells."""
    write_sweep(tmp_path, [{"lr": 0.3}, {"lr": 0.1, "extra": "x"}])
    stored = yaml.safe_load((tmp_path / "sweep.yaml").read_text("utf-8"))
    stored["swept"] = {"lr": []}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(stored), encoding="utf-8")
    assert read_sweep(tmp_path).swept == {"lr": [0.1, 0.3], "extra": ["x"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "is of version 2"),
        ({"cells": None}, "is damaged"),
        ({"cells": [{"number": "x", "folder": "a", "overrides": {}}]}, "is damaged"),
        ({"cells": [{"number": 1, "folder": "../a", "overrides": {}}]}, "is outside the folder"),
        ({"swept": 3}, "is damaged"),
    ],
)
def test_what_is_no_sweep_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError, match=f"^sweep={tmp_path}: holds no sweep.yaml; name"):
        read_sweep(tmp_path)
    write_sweep(tmp_path, [{"lora.r": 2}])
    stored = yaml.safe_load((tmp_path / "sweep.yaml").read_text("utf-8"))
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**stored, **change}), encoding="utf-8")
    with pytest.raises(SweepError, match=f"^sweep={tmp_path}: .*{message}"):
        read_sweep(tmp_path)


def test_a_run_knows_what_is_swept(tmp_path: Path) -> None:
    folders = write_sweep(tmp_path, [{"lora.r": 2, "optimizer": "adamw"}, {"lora.r": 4}])
    for folder in folders:
        write_json(folder / "config.json", {})
    assert swept_values(folders[0]) == {"lora.r": 2, "optimizer": "adamw"}
    assert swept_values(folders[1]) == {"lora.r": 4}
    assert swept_values(tmp_path) == swept_values(tmp_path / "other") == {}


def test_values_as_on_a_command_line() -> None:
    assert [value_text(value) for value in (None, True, 0.0001, 1e-5, 8, "a")] == [
        *("null", "true", "0.0001", "1e-05", "8", "a")
    ]


def test_the_page_is_written_without_torch() -> None:
    """``evaluate.py sweep=`` answers at once."""
    code = "import sys, sdlora.reports.sweep_page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
