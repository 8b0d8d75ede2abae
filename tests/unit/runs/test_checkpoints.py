"""Checkpoints are whole or not there; the newest whole one is found."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sdlora.runs.checkpoint_io import CheckpointError, WholeCheckpointIO
from sdlora.runs.checkpoints import (
    MANIFEST,
    STATE,
    newest_valid,
    problem_of,
    step_folder,
    step_of,
    steps_on_disk,
)
from sdlora.runtime.files import sha256, write_json


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    for step in (2, 4, 10):
        content = {"global_step": step, "weight": torch.full((3,), float(step))}
        WholeCheckpointIO().save_checkpoint(content, step_folder(tmp_path, step) / STATE)
    return tmp_path


def test_what_is_saved_is_loaded(checkpoints: Path) -> None:
    path, skipped = newest_valid(checkpoints)
    assert path == step_folder(checkpoints, 10) / STATE
    assert skipped == []
    assert step_of(path) == 10
    loaded = WholeCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded["weight"], torch.full((3,), 10.0))
    assert steps_on_disk(checkpoints) == [2, 4, 10]


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / STATE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / STATE).write_bytes(data)


DAMAGE = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "manifest.json is missing"),
    "empty manifest": (lambda f: (f / MANIFEST).write_text(""), "manifest.json is damaged"),
    "odd manifest": (lambda f: (f / MANIFEST).write_text("[]"), "manifest.json is damaged"),
    "binary manifest": (lambda f: (f / MANIFEST).write_bytes(b"\xff"), "manifest.json is damaged"),
    "no state": (lambda f: (f / STATE).unlink(), "trainer.ckpt is missing"),
    "empty state": (lambda f: (f / STATE).write_bytes(b""), "trainer.ckpt is not what was written"),
    "half a state": (
        lambda f: (f / STATE).write_bytes((f / STATE).read_bytes()[:300]),
        "trainer.ckpt is not what was written",
    ),
    "one bit": (flip_a_bit, "trainer.ckpt is not what was written"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_says_why(name: str, checkpoints: Path) -> None:
    damage, reason = DAMAGE[name]
    newest = step_folder(checkpoints, 10)
    damage(newest)
    path, skipped = newest_valid(checkpoints)
    assert path == step_folder(checkpoints, 4) / STATE
    assert len(skipped) == 1
    assert skipped[0].startswith(f"{newest}: {reason}")
    with pytest.raises(CheckpointError, match="resume from an older checkpoint"):
        WholeCheckpointIO().load_checkpoint(newest / STATE)


def test_order_is_by_step_number(tmp_path: Path) -> None:
    for step in (9_999_999, 10_000_000):
        WholeCheckpointIO().save_checkpoint(
            {"global_step": step}, step_folder(tmp_path, step) / STATE
        )
    (tmp_path / "step_of_mine").mkdir()
    assert newest_valid(tmp_path)[0] == step_folder(tmp_path, 10_000_000) / STATE
    assert newest_valid(tmp_path / "none") == (None, [])


def test_rewriting_is_invalid_until_it_is_done(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = step_folder(checkpoints, 10)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sdlora.runs.checkpoint_io.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        WholeCheckpointIO().save_checkpoint({"global_step": 10}, folder / STATE)
    assert problem_of(folder) is not None
    assert newest_valid(checkpoints)[0] == step_folder(checkpoints, 4) / STATE


def test_only_plain_data_is_unpickled(tmp_path: Path) -> None:
    folder = step_folder(tmp_path, 1)
    folder.mkdir()
    torch.save({"path": Path("x")}, folder / STATE)
    write_json(folder / MANIFEST, {"step": 1, "sha256": sha256(folder / STATE)})
    with pytest.raises(CheckpointError, match="holds more than plain data"):
        WholeCheckpointIO().load_checkpoint(folder / STATE)


def test_removal_takes_the_whole_folder(checkpoints: Path) -> None:
    WholeCheckpointIO().remove_checkpoint(step_folder(checkpoints, 2) / STATE)
    assert steps_on_disk(checkpoints) == [4, 10]
    assert not step_folder(checkpoints, 2).exists()
