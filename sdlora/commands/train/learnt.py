"""The verdict of ``debug=overfit``: whether the loss fell and a picture came."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdlora.commands.train.training_run import TrainingRun
from sdlora.runs.metrics import read_metrics
from sdlora.runs.partial_files import is_number
from sdlora.runs.samples import BASE, LAST, SAMPLES
from sdlora.runtime.places import from_here

FEWEST_STEPS = 10
"""Steps below which nothing is said: a loss of so few is chance."""

FLAT, SAME = 2.0, 0.5
"""Standard deviation of a picture's values, and mean difference from the base's, of 255."""


class LearntNothing(ValueError):
    """A run that was to show that it learns, and did not."""


def require_learnt(run: TrainingRun) -> None:
    """Say that the loss fell and a picture came.

    Raises:
        LearntNothing: If one of the two did not happen, with what to look at.
    """
    step = run.trainer.global_step
    if step < FEWEST_STEPS:
        run.progress.print(
            f"overfit: {step} steps are too few to tell; use trainer.max_steps={FEWEST_STEPS} or "
            "more"
        )
        return
    fell, loss = fallen(read_metrics(run.folder))
    came, picture = came_out(run.folder)
    said = f"overfit: {loss}; {picture}"
    if not (fell and came):
        raise LearntNothing(
            f"{said}. This setup does not learn: look at {from_here(run.folder / 'report.html')}; "
            "usual reasons are a learning rate that is too small or too large (optim.unet_lr), a "
            "base that does not match model.family, and captions that do not match their pictures"
        )
    run.progress.print(f"{said}. This setup learns.")


def fallen(lines: Sequence[Mapping[str, Any]]) -> tuple[bool, str]:
    """Whether the loss fell, in words with its numbers.

    Of training pictures with the same noise, where that was measured (``val/loss`` with
    ``val/gap``); else of the first and the last quarter of the steps.

    Args:
        lines: Lines of ``metrics.jsonl``.
    """
    fixed = [
        line["val/loss"] + line["val/gap"]
        for line in lines
        if is_number(line.get("val/loss")) and is_number(line.get("val/gap"))
    ]
    steps = [line["train/loss"] for line in lines if is_number(line.get("train/loss"))]
    if len(fixed) > 1:
        before, now, what = fixed[0], fixed[-1], "the loss on training pictures with the same noise"
    elif len(steps) > 1:
        quarter = max(1, len(steps) // 4)
        before, now = float(np.mean(steps[:quarter])), float(np.mean(steps[-quarter:]))
        what = "the training loss, first to last quarter,"
    else:
        return False, "the loss was not logged (trainer.log_every_n_steps)"
    verb = "fell" if now < before else "did not fall:"
    return now < before, f"{what} {verb} from {before:.5f} to {now:.5f}"


def came_out(folder: Path) -> tuple[bool, str]:
    """Whether a picture was drawn that is not flat and not the base's, in words.

    Args:
        folder: The run folder.
    """
    drawn = sorted((folder / SAMPLES / LAST).glob("*.png"))
    if not drawn:
        return False, "no picture was drawn"
    shown = from_here(drawn[0])
    own = _values(drawn[0])
    if own.std() < FLAT:
        return False, f"the picture is of one colour ({shown})"
    base = folder / SAMPLES / BASE / drawn[0].name
    if base.is_file() and np.abs(own - _values(base)).mean() < SAME:
        return False, f"the picture is the base's ({shown})"
    return True, f"the picture came: {shown}"


def _values(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64)
