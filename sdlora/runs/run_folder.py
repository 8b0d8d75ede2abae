"""The folder of a run: its lock, and the refusal of folders that hold another run."""

import json
import os
import platform
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

from filelock import FileLock, Timeout

from sdlora.runs.checkpoints import CHECKPOINTS, steps_on_disk
from sdlora.runtime.files import remove_stale_temporaries, write_json
from sdlora.runtime.places import RUN_CONFIG

LORA = "lora"
"""Folder of the chosen LoRA."""

PIPELINE = "pipeline"
"""Folder of the chosen model, if all its weights train."""

LAST_STEP = "last"
"""Folder of the last step's LoRA or whole model; equal to the chosen one where that is the last."""

OWN_FOLDERS = (CHECKPOINTS, LORA, PIPELINE, LAST_STEP, "samples", "class_pictures")
"""Folders of a run, with all that is below them."""

PROMPTS = "prompts.txt"
"""Prompts of a run that took them from captions, one a line."""

HOLDER = ".lock.json"
"""File beside the held lock that names its process, for the message to others."""


class RunFolderError(ValueError):
    """A run folder that cannot be used; the message gives reason and remedy."""


@contextmanager
def locked(
    folder: Path, key: str = "run_dir", remedy: str = "hydra.run.dir=FOLDER"
) -> Iterator[Path]:
    """Lock the folder for this process; the system frees the lock of a killed process.

    Temporary files of a killed writer are removed.

    Args:
        folder: Folder of a run or a sweep.
        key: Config key of the folder, for the message.
        remedy: Override that chooses another folder.

    Raises:
        RunFolderError: If another process uses it, or it is not writable.
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
        holder = {
            "process": os.getpid(),
            "parent": os.getppid(),
            "computer": platform.node(),
            "since": began,
        }
        write_json(folder / HOLDER, holder)
        for inside in _own_folders(folder):
            remove_stale_temporaries(inside)
        yield folder
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _own_folders(folder: Path) -> Iterator[Path]:
    """The folders that a run writes into; what else lies in its folder is not its own.

    Other runs may lie there, whose temporary files are being written.
    """
    yield folder
    for name in OWN_FOLDERS:
        own = folder / name
        if own.is_dir() and not own.is_symlink() and not (own / RUN_CONFIG).exists():
            yield own
            yield from (path for path in own.rglob("*") if path.is_dir())


def make_folder(folder: Path, key: str, remedy: str) -> None:
    """Create the folder of a run or a sweep, if missing; arguments as for :func:`locked`.

    Raises:
        RunFolderError: If it is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunFolderError(
            f"{key}={folder}: cannot be written to ({error.strerror}); choose another folder with "
            f"{remedy}"
        ) from error


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text("utf-8"))
        return f" (process {holder['process']} on {holder['computer']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or ended
        return ""


def refuse_used(folder: Path) -> None:
    """Raise an error if a new run would overwrite the checkpoints or the result of an older one.

    Raises:
        RunFolderError: Naming both remedies.
    """
    results = [folder / name for name in (LORA, PIPELINE, LAST_STEP)]
    if steps_on_disk(folder / CHECKPOINTS) or any(path.exists() for path in results):
        raise RunFolderError(
            f"run_dir={folder}: holds a run already; continue it with "
            f"{shlex.quote(f'resume={folder}')}, or choose "
            "another folder with hydra.run.dir=FOLDER"
        )


def refuse_check(folder: Path) -> None:
    """Raise an error if a check would write its data sheet over that of a run.

    Raises:
        RunFolderError: Naming the remedy.
    """
    if (folder / RUN_CONFIG).exists():
        raise RunFolderError(
            f"run_dir={folder}: holds a run, whose data sheet check=true would replace; choose "
            "another folder with hydra.run.dir=FOLDER"
        )
