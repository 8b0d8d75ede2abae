"""The typed schema of ``sweep.*``: where the runs of one command go, and how many there may be."""

import re
from dataclasses import dataclass

from omegaconf import MISSING

from sdlora.config.rules import require, require_count


@dataclass(slots=True, kw_only=True)
class SweepConfig:
    name: str | None = None
    """Folder of a sweep in ``outputs/``; ``null``: made of the swept keys and a hash of all that
    was given, so that the same command finds what it began."""
    max_jobs: int = MISSING
    """So many runs are started without a further question; more need this number raised. >= 1."""
    objectives: list[str] = MISSING
    """Of a search: the score that it goes for, such as ``face_distance``, each with the direction
    that is better; of several, the trials that no other beats in all of them (Pareto)."""
    num_trials: int = MISSING
    """Of a search: so many trials have a result in the end. >= 1."""
    trials_at_once: int = MISSING
    """Of a search: so many trials go to the launcher together, the next ones when all of them are
    finished; more than 1 is for launchers that run side by side. >= 1."""
    prune_after: int | None = None
    """Of a search for one score: so many trials run to their end; a later one stops early once its
    best score so far is worse than the median of theirs at that step. Scores while training need
    ``evaluation.every_n_steps``. >= 1; ``null``: all run to their end."""

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
            "names the scores to go for, each once; such as [face_distance]",
        )
        require(
            self.name is None or re.fullmatch(r"\w[\w.,=+-]{0,99}", self.name) is not None,
            "sweep.name",
            self.name,
            "names a folder: 1 to 100 letters, digits or _.,=+-, the first a letter or digit",
        )
