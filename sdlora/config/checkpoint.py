"""The typed schema of ``checkpoint.*``: checkpoints that a run can resume from."""

from dataclasses import dataclass

from omegaconf import MISSING

from sdlora.config.rules import (
    require_count,
)


@dataclass(slots=True, kw_only=True)
class CheckpointConfig:
    """How often checkpoints are written, and how many are kept."""

    every_n_steps: int = MISSING
    """Optimizer steps between checkpoints; 0: only the last."""
    keep_last: int | None = None
    """How many checkpoints stay on disk; ``null``: all."""

    def __post_init__(self) -> None:
        require_count("checkpoint.every_n_steps", self.every_n_steps, 0)
        if self.keep_last is not None:
            require_count("checkpoint.keep_last", self.keep_last)
