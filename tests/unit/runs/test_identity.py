"""A checkpoint knows its run, and one of another run is passed over."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sdlora.runs.checkpoint_io import WholeCheckpointIO
from sdlora.runs.checkpoints import CHECKPOINTS, STATE, newest_valid, problem_of, step_folder
from sdlora.runs.identity import identity, weight_settings
from sdlora.runs.run_config import keep_record, write_config

CONFIG: dict[str, Any] = {
    "seed": 0,
    "resume": None,
    "lora": {"r": 8},
    "data": {"root": "photos", "batch_size": 2},
    "model": {"path": "base"},
    "trainer": {"max_steps": 10},
}


def with_checkpoints(run: Path, config: dict[str, Any], *steps: int) -> Path:
    write_config(run, config, {"data": "f"})
    for step in steps:
        content = {"global_step": step, "weight": torch.zeros(3)}
        WholeCheckpointIO().save_checkpoint(content, step_folder(run / CHECKPOINTS, step) / STATE)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return with_checkpoints(tmp_path / "run", CONFIG, 2, 4)


def newest(run: Path) -> tuple[int | None, list[str]]:
    path, skipped = newest_valid(run / CHECKPOINTS)
    return None if path is None else int(path.parent.name.removeprefix("step_")), skipped


def test_a_run_takes_its_own_checkpoints_also_once_it_moved(run: Path, tmp_path: Path) -> None:
    assert newest(run) == (4, [])
    moved = run.rename(tmp_path / "moved")
    longer = {**CONFIG, "resume": "moved", "trainer": {"max_steps": 99}}
    write_config(moved, {**longer, "model": {"path": "/there/base"}}, {"data": "f"})
    assert newest(moved) == (4, [])


def test_a_copied_or_renamed_checkpoint_is_passed_over(run: Path, tmp_path: Path) -> None:
    other = with_checkpoints(tmp_path / "other", {**CONFIG, "seed": 1}, 6)
    foreign = step_folder(run / CHECKPOINTS, 6)
    shutil.copytree(step_folder(other / CHECKPOINTS, 6), foreign)
    shutil.copytree(step_folder(run / CHECKPOINTS, 2), step_folder(run / CHECKPOINTS, 8))
    step, (renamed, copied) = newest(run)
    assert step == 4
    assert "step_0000008: is the checkpoint of step 2, in a folder of another name" in renamed
    assert "step_0000006: is of another run (its manifest.json and this run's config.json" in copied


def test_other_settings_of_the_weights_are_seen(run: Path) -> None:
    record = json.loads((run / "config.json").read_text("utf-8"))
    record["config"]["lora"]["r"] = 4
    (run / "config.json").write_text(json.dumps(record), "utf-8")
    assert "is of other settings" in str(problem_of(step_folder(run / CHECKPOINTS, 4)))


def test_an_older_version_said_neither(run: Path) -> None:
    manifest = step_folder(run / CHECKPOINTS, 4) / "manifest.json"
    stored = json.loads(manifest.read_text("utf-8"))
    manifest.write_text(json.dumps({k: stored[k] for k in ("step", "sha256")}), "utf-8")
    assert newest(run) == (4, [])
    (run / "config.json").write_text('{"config": {}, "hashes": {}}', "utf-8")
    assert identity(run) == {}
    assert newest(run) == (4, [])


def test_each_start_of_a_new_run_is_another_run(tmp_path: Path) -> None:
    first = identity(with_checkpoints(tmp_path, CONFIG))
    again = identity(with_checkpoints(tmp_path, CONFIG))
    assert first.pop("run") != again.pop("run")
    assert first == again


def test_what_weights_depend_on() -> None:
    settings = weight_settings({"lora": {"r": 1}, "sampling": {"x": 1}, "checks": 2, "check": 1})
    batches = "trainer.accumulate_grad_batches * trainer.devices * trainer.num_nodes"
    assert settings == {batches: 1, "lora.r": 1, "checks": 2}


def test_a_removed_record_is_written_again(run: Path) -> None:
    content = (run / "config.json").read_bytes()
    assert not keep_record(run, b"other")
    shutil.rmtree(run)
    assert keep_record(run, content)
    assert (run / "config.json").read_bytes() == content
