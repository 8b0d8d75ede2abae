"""``results.csv``: the base and every cell, with what is known of each."""

import csv
from pathlib import Path

from sdlora.sweep.cells import read_sweep
from sdlora.sweep.table import write_results
from tests.sweep_folders import write_cell, write_state, write_sweep


def test_a_row_for_the_base_and_for_each_cell(tmp_path: Path) -> None:
    overrides = [{"lora.r": rank, "optim.unet_lr": 0.001} for rank in (2, 4, 8)]
    done, failed, _ = write_sweep(tmp_path, overrides)
    write_cell(done, 0.5, 86.5, final_face=0.75)
    write_state(failed, "failed", 'data.root="a, b": no such folder', seconds=3.0)
    path = write_results(read_sweep(tmp_path))
    with path.open(encoding="utf-8", newline="") as file:
        base, first, second, third = csv.DictReader(file)
    before = ["cell", "lora.r", "optim.unet_lr", "state", "reason", "best_step", "beats_base"]
    assert list(base)[:7] == before
    assert [row["beats_base"] for row in (base, first, second, third)] == ["", "true", "", ""]
    assert base["cell"] == "base"
    assert (base["final/face_distance"], base["final/face_distance_low"]) == ("1.25", "1.125")
    assert base["best/face_distance"] == base["lora.r"] == ""
    assert (first["cell"], first["lora.r"], first["optim.unet_lr"]) == ("1", "2", "0.001")
    assert (first["state"], first["best_step"]) == ("done", "10")
    assert (first["final/face_distance"], first["best/face_distance"]) == ("0.75", "0.5")
    assert (first["best/face_distance_low"], first["best/face_distance_high"]) == ("0.375", "0.625")
    assert (first["final/clip_score"], "final/clip_score_low" in first) == ("86.5", False)
    assert (first["seconds"], first["peak_memory_mib"], first["file_bytes"]) == (
        *("61.0", "900.5", "1048576"),
    )
    assert first["folder"] == "lora.r=2,optim.unet_lr=0.001"
    assert (second["state"], second["reason"]) == ("failed", 'data.root="a, b": no such folder')
    assert (second["seconds"], second["final/face_distance"]) == ("3.0", "")
    assert (third["state"], third["reason"], third["seconds"]) == ("not begun", "", "")


def test_without_any_score_there_is_a_table(tmp_path: Path) -> None:
    write_sweep(tmp_path, [{"lora.r": 2}])
    text = write_results(read_sweep(tmp_path)).read_text(encoding="utf-8")
    assert text.splitlines()[1] == "1,2,not begun,,,,,,,,lora.r=2"


def test_a_cell_that_is_not_better_than_the_base_is_marked(tmp_path: Path) -> None:
    [cell] = write_sweep(tmp_path, [{"lora.r": 2}])
    write_cell(cell, 1.25)
    with write_results(read_sweep(tmp_path)).open(encoding="utf-8", newline="") as file:
        assert [row["beats_base"] for row in csv.DictReader(file)] == ["", "false"]


def test_no_cell_is_a_formula_and_numbers_stay_numbers(tmp_path: Path) -> None:
    overrides = [{"optim.unet_lr": -0.5, "export.name": "=HYPERLINK(1)", "data.x": "@sum", "-k": 1}]
    [cell] = write_sweep(tmp_path, overrides)
    write_state(cell, "failed", "+cmd|' /C calc'!A0", seconds=3.0)
    with write_results(read_sweep(tmp_path)).open(encoding="utf-8", newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["optim.unet_lr"], row["'-k"]) == ("-0.5", "1")
    assert (row["export.name"], row["data.x"]) == ("'=HYPERLINK(1)", "'@sum")
    assert row["reason"] == "'+cmd|' /C calc'!A0"
