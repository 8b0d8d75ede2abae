"""What a run says when it cannot go on: what is saved, and how to go on."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdlora.adapters.formats import DIFFUSERS_FILE
from sdlora.commands.train.training_run import TrainingRun
from sdlora.runs.checkpoints import CHECKPOINTS, newest_valid, step_of
from sdlora.training.module import MemoryUsedUpError, TrainingError


def how_to_go_on(folder: Path) -> str:
    """The command that resumes a run, for a shell in this working folder."""
    return shlex.join(["sdlora", "train", f"resume={folder}"])


@contextmanager
def told_what_is_safe(run: TrainingRun) -> Iterator[None]:
    """Say which step is saved and how to go on, if the block ends by an error."""
    try:
        yield
    except Exception as error:
        is_spoilt = isinstance(error, TrainingError) and not isinstance(error, MemoryUsedUpError)
        for line in safe_lines(run.folder, is_spoilt=is_spoilt):
            run.progress.print(line)
        raise


def safe_lines(folder: Path, *, is_spoilt: bool) -> list[str]:
    """The last whole checkpoint of a run that failed, and what continues it.

    Args:
        folder: The run folder.
        is_spoilt: Whether the training itself failed, such as by a loss that is no number: the same
            settings would fail again.
    """
    checkpoint, _ = newest_valid(folder / CHECKPOINTS)
    if checkpoint is None:
        return [f"{folder}: no step is saved; start again once the cause is gone"]
    safe = f"{folder}: step {step_of(checkpoint)} is saved"
    if is_spoilt:
        file = checkpoint.parent / DIFFUSERS_FILE
        start = f"; a new run starts from its weights with lora.init_from={file}"
        return [f"{safe}{start if file.is_file() else ''}"]
    return [f"{safe}; once the cause is gone, continue with: {how_to_go_on(folder)}"]
