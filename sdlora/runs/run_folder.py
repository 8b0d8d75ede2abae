"""A run's folder: one process at a time, its config written once and compared on resume."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

from filelock import FileLock, Timeout

from sdlora.runs.checkpoints import CHECKPOINTS, steps_on_disk
from sdlora.runtime.files import remove_stale_temporaries, write_json

LORA = "lora"
"""Folder of the exported LoRA."""

PIPELINE = "pipeline"
"""Folder of the whole model, where all of it trained."""

HOLDER = ".lock.json"
"""Beside the lock while it is held: who holds it, for the message to others."""


class RunFolderError(ValueError):
    """A run folder that cannot be used; the message says why and what to do."""


@contextmanager
def locked(
    folder: Path, key: str = "run_dir", remedy: str = "hydra.run.dir=FOLDER"
) -> Iterator[Path]:
    """Hold the folder for this process; the lock goes with the process, even a killed one.

    What a killed writer left behind is removed.

    Args:
        folder: Of a run, or of a sweep.
        key: Of the config, that names it; for the message.
        remedy: How to choose another.

    Raises:
        RunFolderError: If another process works in it, or nothing can be written there.
    """
    make_folder(folder, key, remedy)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFolderError(
            f"{key}={folder}: another process is training in it{_holder(folder)}; wait for it, or "
            f"choose another folder with {remedy}"
        ) from None
    try:
        began = datetime.now(UTC).isoformat(" ", "seconds")
        told = {"process": os.getpid(), "computer": platform.node(), "since": began}
        write_json(folder / HOLDER, told)
        for inside in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            remove_stale_temporaries(inside)
        yield folder
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def make_folder(folder: Path, key: str, remedy: str) -> None:
    """Make the folder of a run or a sweep, where it is not there; arguments as of :func:`locked`.

    Raises:
        RunFolderError: If nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunFolderError(
            f"{key}={folder}: cannot be written in ({error.strerror}); choose another folder with "
            f"{remedy}"
        ) from error


def _holder(folder: Path) -> str:
    try:
        told = json.loads((folder / HOLDER).read_text("utf-8"))
        return f" (process {told['process']} on {told['computer']}, since {told['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or ended
        return ""


def refuse_used(folder: Path) -> None:
    """Fail if a new run would write over the checkpoints or the result of an older one.

    Raises:
        RunFolderError: Naming both ways on.
    """
    if steps_on_disk(folder / CHECKPOINTS) or (folder / LORA).exists():
        raise RunFolderError(
            f"run_dir={folder}: holds a run already; go on with it by resume={folder}, or choose "
            "another folder with hydra.run.dir=FOLDER"
        )
