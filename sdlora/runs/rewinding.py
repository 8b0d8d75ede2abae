"""Going back to an earlier checkpoint of a run: what came after it is set aside, whole."""

import re
import shutil
from pathlib import Path

from sdlora.runs.best import read_best
from sdlora.runs.checkpoints import CHECKPOINTS, problem_of, step_folder, step_of
from sdlora.runs.finished import FINISHED
from sdlora.runs.metrics import METRICS
from sdlora.runs.report import REPORT
from sdlora.runs.run_folder import LAST_STEP, LORA, PIPELINE, RunFolderError
from sdlora.runs.samples import SAMPLES

OF_THE_END = (LAST_STEP, REPORT, FINISHED, "report.html", f"{SAMPLES}/last", f"{SAMPLES}/last.png")


def checkpoint_of_step(run: Path, step: int) -> Path:
    """The ``trainer.ckpt`` of a step.

    Raises:
        RunFolderError: If it is not there, or cannot be used.
    """
    folder = step_folder(run / CHECKPOINTS, step)
    if (problem := problem_of(folder)) is None:
        return folder / "trainer.ckpt"
    every = sorted((run / CHECKPOINTS).glob("step_*"))
    whole = [str(step_of(each / "x")) for each in every if problem_of(each) is None]
    known = f"choose one of {', '.join(whole)}" if whole else "this run has no checkpoint"
    raise RunFolderError(f"resume_step={step}: {folder}: {problem}; {known}")


def set_aside_after(run: Path, step: int) -> Path | None:
    """Move what a run wrote after a step into a folder of its own, and return that.

    The chosen adapter stays if it was chosen by this step; its place is else taken anew.
    """
    later = [path for path in _of_later_steps(run, step) if path.exists()]
    if not later:
        return None
    number = 1
    while (aside := run / f"after_step_{step}_{number}").exists():
        number += 1
    for path in later:
        target = aside / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    if (run / METRICS).is_file():  # its later lines are removed when training begins
        shutil.copyfile(run / METRICS, aside / METRICS)
    return aside


def _of_later_steps(run: Path, step: int) -> list[Path]:
    stepwise = [*(run / CHECKPOINTS).glob("step_*"), *(run / SAMPLES).glob("step_*")]
    numbers = {path: re.fullmatch(r"step_(\d+)(\.png)?", path.name) for path in stepwise}
    later = [path for path, found in numbers.items() if found and int(found[1]) > step]
    best = read_best(run)
    chosen = [run / LORA, run / PIPELINE] if best is None or best.step > step else []
    return [*later, *chosen, *(run / name for name in OF_THE_END)]
