"""The typed schema of ``checkpoint.*``: checkpoints that a run can resume from."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from sdlora.config.effect import absent, given, where
from sdlora.config.rules import (
    require_count,
    require_rate,
)


@dataclass(slots=True, kw_only=True)
class CheckpointConfig:
    """How often checkpoints are written, and how many are kept."""

    every_n_steps: int = field(
        default=MISSING,
        metadata=where(absent(".every_n_epochs")),
    )
    """Optimizer steps between checkpoints; 0: only the last."""
    every_n_epochs: float | None = None
    """Epochs between checkpoints, in place of ``every_n_steps``, which they become; > 0.
    ``null``: as that says."""
    keep_last: int | None = field(
        default=None, metadata=where((given(".every_n_steps"), given(".every_n_epochs")))
    )
    """How many checkpoints stay on disk; ``null``: all."""

    def __post_init__(self) -> None:
        require_count("checkpoint.every_n_steps", self.every_n_steps, 0)
        if self.every_n_epochs is not None:
            require_rate("checkpoint.every_n_epochs", self.every_n_epochs)
        if self.keep_last is not None:
            require_count("checkpoint.keep_last", self.keep_last)
