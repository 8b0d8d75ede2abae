"""Pruning of a search's trial: its scores go into the study, which may stop it early."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdlora.evaluation.scores import Scores
from sdlora.sweep.plan import STUDY
from sdlora.sweep.search import CELL, NAME, PRUNED, Goal, storage_of

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial


@dataclass(frozen=True, slots=True)
class Pruning:
    """The pruning of a trial.

    Attributes:
        is_hopeless: Step and scores -> whether to stop at that step.
        stopped_at: Step at which a process stopped it that was killed before the trial's end.
    """

    is_hopeless: Callable[[int, Scores], bool]
    stopped_at: int | None

    def was_stopped(self, step: int) -> bool:
        """Whether it was stopped at or before this step of the resumed run."""
        return self.stopped_at is not None and step >= self.stopped_at


def pruning(run: Path) -> Pruning | None:
    """The pruning of the trial in a run folder.

    A trial is stopped if its best score so far is worse than the median of the finished ones at
    that step (Optuna's ``MedianPruner``).

    Args:
        run: The run folder.

    Returns:
        None if the run is no running trial of a single-score search with pruning.
    """
    if not (run.parent / STUDY).is_file():
        return None
    import optuna

    storage = storage_of(run.parent)
    study = optuna.load_study(study_name=NAME, storage=storage)
    goal = Goal(**study.user_attrs["goal"])
    trial = _running_trial(study, run)
    if trial is None or goal.prune_after is None or len(goal.objectives) > 1:
        return None
    study_id = storage.get_study_id_from_name(NAME)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=goal.prune_after)
    [objective] = goal.objectives
    stopped_at = trial.user_attrs.get(PRUNED)

    def is_hopeless(step: int, scores: Scores) -> bool:
        if stopped_at is not None and step >= stopped_at:
            return True
        value = scores.value(objective)
        if value is None:
            return False
        storage.set_trial_intermediate_value(trial_id, step, float(value))
        if not pruner.prune(study, storage.get_trial(trial_id)):
            return False
        storage.set_trial_user_attr(trial_id, PRUNED, step)
        return True

    return Pruning(is_hopeless, stopped_at)


def _running_trial(study: "Study", run: Path) -> "FrozenTrial | None":
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return next((t for t in running if t.user_attrs.get(CELL, {}).get("folder") == run.name), None)
