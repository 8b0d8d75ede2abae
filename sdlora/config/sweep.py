"""The typed schema of ``sweep.*``: folder and size of a sweep, and goal of a search."""

import re
from dataclasses import dataclass, field

from omegaconf import MISSING

from sdlora.config.effect import GRID, MULTIRUN, SEARCH, Condition, above, of, where
from sdlora.config.rules import require, require_count

IN_SWEEPS = of(MULTIRUN, GRID, SEARCH)
"""Several runs are started."""

IN_SEARCHES = of(MULTIRUN, SEARCH)
"""They are trials of a search."""

ONE_SCORE = Condition("sweep.objectives", lambda names: len(names) == 1, "one score in {}")
SCORED_BETWEEN = above("evaluation.every_n_steps", 0)


@dataclass(slots=True, kw_only=True)
class SweepConfig:
    """Name and size of a sweep, and what a search optimizes."""

    name: str | None = field(default=None, metadata=where(IN_SWEEPS))
    """Folder of a sweep in ``outputs/``; ``null``: made of the swept keys and a hash of all
    overrides, so that the same command continues its sweep."""
    max_jobs: int = field(default=MISSING, metadata=where(IN_SWEEPS))
    """Largest number of runs that a sweep may start; raise it for more. >= 1."""
    objectives: list[str] = field(default=MISSING, metadata=where(IN_SEARCHES))
    """Scores that a search optimizes, such as ``face_distance``, each in its better direction;
    several give the Pareto front."""
    num_trials: int = field(default=MISSING, metadata=where(IN_SEARCHES))
    """Number of trials of a search. >= 1."""
    trials_at_once: int = field(default=MISSING, metadata=where(IN_SEARCHES))
    """Number of trials of a search that go to the launcher together, the next ones when all of
    them are finished; more than 1 is for launchers that run jobs in parallel. >= 1."""
    prune_after: int | None = field(
        default=None, metadata=where(IN_SEARCHES, ONE_SCORE, SCORED_BETWEEN)
    )
    """Number of trials of a search for one score that run to their end before pruning: a later
    trial stops early when its best score so far is worse than the median of theirs at that step.
    It needs ``evaluation.every_n_steps``. >= 1; ``null``: no pruning."""

    def __post_init__(self) -> None:
        require_count("sweep.max_jobs", self.max_jobs)
        require_count("sweep.num_trials", self.num_trials)
        require_count("sweep.trials_at_once", self.trials_at_once)
        if self.prune_after is not None:
            require_count("sweep.prune_after", self.prune_after)
        require(
            len(self.objectives) == len(set(self.objectives)) > 0,
            "sweep.objectives",
            self.objectives,
            "lists the scores to optimize, each once, such as [face_distance]",
        )
        require(
            self.name is None or re.fullmatch(r"\w[\w.,=+-]{0,99}", self.name) is not None,
            "sweep.name",
            self.name,
            "is a folder name: 1 to 100 letters, digits or _.,=+-, the first a letter or digit",
        )
