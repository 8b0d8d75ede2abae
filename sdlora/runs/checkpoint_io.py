"""Lightning's CheckpointIO: checkpoints written whole, and read after a check of their hash."""

import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from sdlora.runs.checkpoints import MANIFEST, problem_of
from sdlora.runs.identity import identity
from sdlora.runtime.files import sha256, write_bytes, write_json


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names file, reason and remedy."""


class WholeCheckpointIO(CheckpointIO):
    """A CheckpointIO that writes ``<folder>/trainer.ckpt`` and then its manifest.

    Lightning's own writer stages in the system's temporary folder and copies across file systems,
    which can truncate the previous good file. Here the state is written first, whole; the manifest
    with its SHA-256 and the identity of the run comes last and makes the checkpoint valid.
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
        manifest = {"step": step, "sha256": sha256(path), **identity(path.parents[2])}
        write_json(path.parent / MANIFEST, manifest)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint after a check of its hash; only plain data is unpickled.

        Raises:
            CheckpointError: If it is incomplete, altered, or not a checkpoint.
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
        """Remove a checkpoint's folder; the manifest first, so that no half is valid."""
        folder = Path(path).parent
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
