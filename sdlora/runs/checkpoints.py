"""Checkpoints that survive a kill: written whole, checked by hash, newest valid one found."""

import io
import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from sdlora.runtime.files import sha256, write_bytes, write_json

STATE = "trainer.ckpt"
MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names file, reason and remedy."""


class WholeCheckpointIO(CheckpointIO):
    """Lightning's door to the disk: ``<folder>/trainer.ckpt`` and then its manifest.

    Lightning's own writer stages in the system's temporary folder and copies across file systems,
    which can cut the previous good file. Here the state is written first, whole; the manifest with
    its SHA-256 comes last and makes the checkpoint valid.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path`` (a ``trainer.ckpt``), then the manifest beside it."""
        path = Path(path)
        (path.parent / MANIFEST).unlink(missing_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(path, buffer.getvalue())
        step = int(checkpoint["global_step"])
        write_json(path.parent / MANIFEST, {"step": step, "sha256": sha256(path)})

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint after its hash was checked; only plain data is unpickled.

        Raises:
            CheckpointError: If it is not whole, altered, or not a checkpoint.
        """
        problem = problem_of(Path(path).parent)
        if problem:
            raise CheckpointError(f"{path}: {problem}; resume from an older checkpoint")
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            reason = f"holds more than plain data, or is of another torch ({type(error).__name__})"
            raise CheckpointError(f"{path}: {reason}; start a new run") from error

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint's folder; the manifest goes first, so a cut removal is no lie."""
        folder = Path(path).parent
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


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
    """The newest whole checkpoint by step number, and why newer ones were passed over.

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
