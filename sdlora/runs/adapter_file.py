"""Which LoRA file of a run folder is meant: the last, the best, or a step's."""

from pathlib import Path

from sdlora.config.rules import ConfigError


def checkpoint_path(folder: str, checkpoint: str) -> Path:
    """The LoRA file of a run.

    Args:
        folder: The run folder.
        checkpoint: ``last``, ``best`` or a step number; ``all`` checks that there is one.

    Raises:
        ConfigError: If it is not there.
    """
    run = Path(folder)
    if checkpoint == "best":
        best = run / "best" / "pytorch_lora_weights.safetensors"
        if not best.parent.is_dir():
            raise ConfigError(f"checkpoint=best: {run} has kept none; choose last or a step number")
        return best
    if checkpoint == "last" and (run / "lora").is_dir():
        return run / "lora" / "pytorch_lora_weights.safetensors"
    return _step_path(run, "last" if checkpoint == "all" else checkpoint)


def _step_path(run: Path, checkpoint: str) -> Path:
    from sdlora.runs.checkpoints import (  # brings Lightning, which is slow
        step_folder,
        steps_on_disk,
    )

    steps = steps_on_disk(run / "checkpoints")
    if not steps:
        raise ConfigError(f"run={run}: holds no checkpoint; give a folder that training wrote")
    if checkpoint != "last" and (not checkpoint.isdigit() or int(checkpoint) not in steps):
        known = ", ".join(map(str, steps))
        raise ConfigError(f"checkpoint={checkpoint}: not in {run}; choose last or one of {known}")
    step = steps[-1] if checkpoint == "last" else int(checkpoint)
    return step_folder(run / "checkpoints", step) / "pytorch_lora_weights.safetensors"
