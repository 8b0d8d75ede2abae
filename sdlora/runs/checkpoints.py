"""The checkpoint folders of a run: their state, and the newest valid one."""

import json
import re
from pathlib import Path

from sdlora.runtime.files import sha256

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in the run folder; one sub-folder for each step."""

STATE = "trainer.ckpt"
MANIFEST = "manifest.json"


def problem_of(folder: Path) -> str | None:
    """Why the checkpoint in ``folder`` cannot be used, or ``None`` if it is whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        expected = manifest["sha256"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing (the run was stopped while it wrote)"
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        return f"{MANIFEST} is damaged"
    if not (folder / STATE).is_file():
        return f"{STATE} is missing"
    if sha256(folder / STATE) != expected:
        return f"{STATE} is not what was written (its SHA-256 differs)"
    return None


def step_folder(checkpoints: Path, step: int) -> Path:
    """The folder of one step's checkpoint."""
    return checkpoints / f"step_{step:07d}"


def newest_valid(checkpoints: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint by step number, and why newer ones were skipped.

    Args:
        checkpoints: The run's ``checkpoints`` folder.

    Returns:
        Path of its ``trainer.ckpt`` (``None`` if there is none), and one line for each skipped.
    """
    skipped: list[str] = []
    for folder in reversed(_step_folders(checkpoints)):
        problem = problem_of(folder)
        if problem is None:
            return folder / STATE, skipped
        skipped.append(f"{folder}: {problem}")
    return None, skipped


def steps_on_disk(checkpoints: Path) -> list[int]:
    """Steps of the checkpoint folders that have a manifest, ascending."""
    folders = _step_folders(checkpoints)
    return [step_of(folder / STATE) for folder in folders if (folder / MANIFEST).is_file()]


def step_of(checkpoint: Path) -> int:
    """The step of a ``step_N/trainer.ckpt``."""
    return int(checkpoint.parent.name.removeprefix("step_"))


def _step_folders(checkpoints: Path) -> list[Path]:
    """Folders named by a step, by number (never by time: clocks go back)."""
    named = [p for p in checkpoints.glob("step_*") if re.fullmatch(r"step_\d+", p.name)]
    return sorted(named, key=lambda folder: step_of(folder / STATE))
