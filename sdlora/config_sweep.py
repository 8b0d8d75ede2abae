"""The typed schema of ``sweep.*``: where the runs of one command go, and how many there may be."""

import re
from dataclasses import dataclass

from omegaconf import MISSING

from sdlora.config_rules import require, require_count


@dataclass(slots=True, kw_only=True)
class SweepConfig:
    name: str | None = None
    """Folder of a sweep in ``outputs/``; ``null``: made of the swept keys and a hash of all that
    was given, so that the same command finds what it began."""
    max_jobs: int = MISSING
    """So many runs are started without a further question; more need this number raised. >= 1."""

    def __post_init__(self) -> None:
        require_count("sweep.max_jobs", self.max_jobs)
        require(
            self.name is None or re.fullmatch(r"\w[\w.,=+-]{0,99}", self.name) is not None,
            "sweep.name",
            self.name,
            "names a folder: 1 to 100 letters, digits or _.,=+-, the first a letter or digit",
        )
