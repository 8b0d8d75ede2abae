"""A run's folder: its lock, and what a new run refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from sdlora.runs.run_config import (
    write_config,
)
from sdlora.runs.run_folder import RunFolderError, locked, refuse_used
from tests.places import REPOSITORY

CONFIG = {
    "seed": 0,
    "run_dir": "a",
    "lora": {"r": 8, "unet": {"targets": ["to_q"]}},
    "data": {"root": "photos", "resolution": 64},
    "trainer": {"max_steps": 10, "precision": "fp32"},
}
HASHES = {"data": "0123456789abcdef", "unet/model.safetensors": "ff"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_config(tmp_path, CONFIG, HASHES)
    return tmp_path


def test_second_process_is_refused_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from sdlora.runs.run_folder import locked\n"
        f"with locked(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(RunFolderError, match="another process is training in it"),
            locked(tmp_path),
        ):
            pass
        other.kill()
    with locked(tmp_path) as folder:
        assert folder == tmp_path


def test_what_a_killed_writer_left_is_removed_at_every_depth(tmp_path: Path) -> None:
    left = [tmp_path / ".writing-a.json", tmp_path / "checkpoints" / "step_1" / ".writing-b.ckpt"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with locked(tmp_path):
        assert not any(path.exists() for path in left)


def test_runs_below_a_run_keep_what_they_write(tmp_path: Path) -> None:
    """A run that is started in their parent folder, or in one with a tree of anything."""
    own = tmp_path / "samples" / "base" / ".writing-a.png"
    others = [
        tmp_path / "2026-01-01" / "10-00-00" / ".writing-a.json",
        tmp_path / "2026-01-01" / "10-00-00" / "checkpoints" / "step_1" / ".writing-b.ckpt",
        tmp_path / "lora" / ".writing-c.json",
    ]
    for path in (own, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "lora" / "config.json").touch()  # a run of that name
    with locked(tmp_path):
        assert not own.exists()
        assert all(path.exists() for path in others)


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    refuse_used(tmp_path)
    (tmp_path / "checkpoints" / "step_0000002").mkdir(parents=True)
    refuse_used(tmp_path)  # cut while it was written: nothing to lose
    (tmp_path / "checkpoints" / "step_0000002" / "manifest.json").touch()
    with pytest.raises(RunFolderError, match=r"holds a run already; continue it with resume="):
        refuse_used(tmp_path)
