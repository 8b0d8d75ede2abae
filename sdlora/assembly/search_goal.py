"""Typed config -> the goal of a search: its scores and their better directions."""

from collections.abc import Mapping

from sdlora.assembly.scorers import check_choice
from sdlora.config.evaluation import EvaluationConfig
from sdlora.config.rules import require, require_choice
from sdlora.config.score_kinds import KINDS, LOWER
from sdlora.config.sweep import SweepConfig
from sdlora.sweep.search import Goal


def search_goal(sweep: SweepConfig, evaluation: EvaluationConfig, space: Mapping[str, str]) -> Goal:
    """The goal of a search.

    Args:
        sweep: Its objectives.
        evaluation: Evaluation of every trial.
        space: Key -> its values as typed.

    Raises:
        ConfigError: If an objective is no score, has no better direction, or is not measured.
    """
    require(bool(space), "hydra.sweeper.params", {}, "give some key several values")
    directed = tuple(name for name, each in KINDS.items() if each.sign)
    for name in sweep.objectives:
        require_choice("sweep.objectives", name, directed)
        unset = " and ".join(f"evaluation.{key}" for key in evaluation.unset_for(name))
        require(
            not unset,
            "sweep.objectives",
            name,
            f"is not measured; set {unset}, or choose another score",
        )
    instead = "[image_similarity]"
    check_choice(evaluation, "sweep.objectives", sweep.objectives, instead=instead)
    return Goal(
        objectives={
            name: "minimize" if KINDS[name].arrow == LOWER else "maximize"
            for name in sweep.objectives
        },
        space=dict(space),
        prune_after=sweep.prune_after,
    )
