"""What a run says when it cannot go on: what is saved, and how to go on."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdlora.adapters.lora_places import DIFFUSERS_FILE
from sdlora.runs.checkpoints import CHECKPOINTS, newest_valid, step_of
from sdlora.runtime.places import RUN_CONFIG
from sdlora.runtime.progress import Progress
from sdlora.training.module import MemoryUsedUpError, TrainingError


def how_to_go_on(folder: Path) -> str:
    """The command that resumes a run, for a shell in this working folder."""
    return shlex.join(["sdlora", "train", f"resume={folder}"])


@contextmanager
def told_what_is_safe(
    folder: Path, progress: Progress, errors: type[Exception] = Exception
) -> Iterator[None]:
    """Say which step is saved and how to go on, if the block ends by a signal or an error.

    Args:
        folder: The run folder.
        progress: Prints.
        errors: The errors that are meant; others say themselves what to do.
    """
    try:
        yield
    except (SystemExit, errors) as error:
        is_spoilt = isinstance(error, TrainingError) and not isinstance(error, MemoryUsedUpError)
        say_what_is_safe(folder, progress, is_spoilt=is_spoilt)
        raise


def say_what_is_safe(folder: Path, progress: Progress, *, is_spoilt: bool = False) -> None:
    """Print :func:`safe_lines`."""
    for line in safe_lines(folder, is_spoilt=is_spoilt):
        progress.print(line)


def safe_lines(folder: Path, *, is_spoilt: bool) -> list[str]:
    """The last whole checkpoint of a run that failed, and what continues it.

    Args:
        folder: The run folder.
        is_spoilt: Whether the training itself failed, such as by a loss that is no number: the same
            settings would fail again.
    """
    if not (folder / RUN_CONFIG).is_file():
        return [f"{folder}: nothing has begun yet; start again with the same command"]
    checkpoint, _ = newest_valid(folder / CHECKPOINTS)
    if checkpoint is None:
        return [f"{folder}: no step is saved yet; begin it with: {how_to_go_on(folder)}"]
    safe = f"{folder}: step {step_of(checkpoint)} is saved"
    if is_spoilt:
        file = checkpoint.parent / DIFFUSERS_FILE
        start = f"; a new run starts from its weights with lora.init_from={file}"
        return [f"{safe}{start if file.is_file() else ''}"]
    return [f"{safe}; continue with: {how_to_go_on(folder)}"]
