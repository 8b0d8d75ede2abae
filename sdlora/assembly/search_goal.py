"""The goal of a search, from the config: which scores, and which way each is better."""

from collections.abc import Mapping

from sdlora.config.evaluation import EvaluationConfig
from sdlora.config.rules import require, require_choice
from sdlora.config.sweep import SweepConfig
from sdlora.evaluation.scores import HIGHER, KINDS, NEITHER
from sdlora.sweep.search import Goal

SCORER_OF = {
    "face_distance": "face",
    "face_cosine": "face",
    "faceless": "face",
    "clip_score": "clip",
    "image_similarity": "image",
    "diversity": "image",
    "copying": "image",
    "kid": "kid",
    "prior_drift": "prior_prompts",
    "aesthetic": "aesthetic",
    "hw10_face": "hw10",
    "hw10_clip": "hw10",
    "hw10_faceless": "hw10",
}
"""Score -> the key of ``evaluation`` that has to be set for it."""


def search_goal(sweep: SweepConfig, evaluation: EvaluationConfig, space: Mapping[str, str]) -> Goal:
    """What a search goes for.

    Args:
        sweep: With the objectives.
        evaluation: Of every trial, unless a trial changes it.
        space: Key -> its values as they were typed.

    Raises:
        ConfigError: If an objective is no score, has no better direction, or is not measured.
    """
    require(bool(space), "hydra.sweeper.params", {}, "searches nothing; give a key several values")
    directed = {name: kind.arrow for name, kind in KINDS.items() if kind.arrow != NEITHER}
    for name in sweep.objectives:
        require_choice("sweep.objectives", name, tuple(directed))
        scorer = getattr(evaluation, SCORER_OF[name])
        require(
            bool(scorer) and getattr(scorer, "name", None) != "none",
            "sweep.objectives",
            name,
            f"is not measured; set evaluation.{SCORER_OF[name]}, or choose another score",
        )
    return Goal(
        objectives={
            name: "maximize" if directed[name] == HIGHER else "minimize"
            for name in sweep.objectives
        },
        space=dict(space),
        prune_after=sweep.prune_after,
    )
