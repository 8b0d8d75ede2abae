"""Lookup of a LoRA file in a run folder: the chosen one, the last, or that of a step."""

from pathlib import Path

from sdlora.adapters.lora_places import trained_file
from sdlora.config.rules import ConfigError
from sdlora.runs.best import SCORES, chosen_folder
from sdlora.runs.checkpoints import CHECKPOINTS, step_folder, steps_on_disk
from sdlora.runs.run_folder import LAST_STEP, LORA

CHOSEN, LAST = "chosen", "last"
"""The adapter that a run hands over in ``lora/``, and that of its last step."""


def checkpoint_path(folder: str, checkpoint: str) -> Path:
    """The LoRA file of a run.

    Args:
        folder: The run folder.
        checkpoint: ``chosen``: the step chosen by its scores, the last where none was; ``best``:
            that step alone; ``last``; a step number; ``all`` checks that there is a checkpoint.

    Raises:
        ConfigError: If it is not there.
    """
    run = Path(folder)
    if checkpoint in (CHOSEN, "best"):
        chosen = chosen_folder(run)
        if chosen is not None:
            return trained_file(chosen)
        if checkpoint == "best":
            raise ConfigError(f"checkpoint=best: {run} has none; choose last or a step number")
    last = _last_folder(run)
    if checkpoint in (CHOSEN, LAST) and last is not None:
        return trained_file(last)
    return _step_path(run, LAST if checkpoint in (CHOSEN, "all") else checkpoint)


def _last_folder(run: Path) -> Path | None:
    """Folder of the last step's export; older versions had it in ``lora/``, without scores."""
    if (run / LAST_STEP).is_dir():
        return run / LAST_STEP
    older = run / LORA
    return older if older.is_dir() and not (older / SCORES).exists() else None


def _step_path(run: Path, checkpoint: str) -> Path:
    steps = steps_on_disk(run / CHECKPOINTS)
    if not steps:
        raise ConfigError(f"run={run}: holds no checkpoint; give a folder that training wrote")
    if checkpoint != LAST and (not checkpoint.isdigit() or int(checkpoint) not in steps):
        known = ", ".join(map(str, steps))
        raise ConfigError(f"checkpoint={checkpoint}: not in {run}; choose last or one of {known}")
    step = steps[-1] if checkpoint == LAST else int(checkpoint)
    return trained_file(step_folder(run / CHECKPOINTS, step))
