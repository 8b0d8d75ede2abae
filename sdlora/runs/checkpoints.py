"""The checkpoint folders of a run: their state, and the newest valid one."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlora.runs.identity import CONFIG, identity
from sdlora.runtime.files import sha256

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in the run folder; one sub-folder for each step."""

STATE = "trainer.ckpt"
MANIFEST = "manifest.json"


_OTHER = {"run": "another run", "seed": "another seed", "settings": "other settings"}


def problem_of(folder: Path) -> str | None:
    """Why the checkpoint in ``folder`` cannot be used, or ``None`` if it is whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        expected = manifest["sha256"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing (the run was stopped while it wrote)"
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        return f"{MANIFEST} is damaged"
    if (other := _other_origin(folder, manifest)) is not None:
        return other
    if not (folder / STATE).is_file():
        return f"{STATE} is missing"
    if sha256(folder / STATE) != expected:
        return f"{STATE} is not what was written (its SHA-256 differs)"
    return None


def _other_origin(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Why a checkpoint is none of this run, or not of this step; older ones do not say."""
    step = manifest.get("step")
    if folder.name.startswith("step_") and step != step_of(folder / STATE):
        return f"is the checkpoint of step {step}, in a folder of another name"
    own = identity(folder.parent.parent)
    for name in own:
        if name in manifest and own[name] != manifest[name]:
            return f"is of {_OTHER[name]} (its {MANIFEST} and this run's {CONFIG} differ)"
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
