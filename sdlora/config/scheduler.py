"""The typed schema of ``scheduler.*``: the learning-rate schedule."""

import math
from dataclasses import dataclass, field

from omegaconf import MISSING

from sdlora.config.effect import of, other_than, where
from sdlora.config.rules import (
    require,
    require_choice,
    require_count,
)


@dataclass(slots=True, kw_only=True)
class SchedulerConfig:
    """The learning-rate schedule."""

    name: str = MISSING
    """Learning-rate schedule: constant, constant_with_warmup, linear, cosine,
    cosine_with_restarts, polynomial or cosine_annealing."""
    warmup_steps: int = field(default=MISSING, metadata=where(other_than(".name", "constant")))
    """Optimizer steps of linear warm-up; >= 0."""
    num_cycles: int = field(default=MISSING, metadata=where(of(".name", "cosine_with_restarts")))
    """How often ``cosine_with_restarts`` starts again at the full rate; >= 1."""
    eta_min: float | None = None
    """Final rate of ``cosine_annealing``, one for all trained weights; >= 0."""
    per: str | None = None
    """When ``cosine_annealing`` updates the rate: each ``step`` or ``epoch``."""

    def __post_init__(self) -> None:
        require_count("scheduler.warmup_steps", self.warmup_steps, 0)
        require_count("scheduler.num_cycles", self.num_cycles)
        if self.name == "cosine_annealing":
            eta_min = -1.0 if self.eta_min is None else self.eta_min
            is_rate = math.isfinite(eta_min) and eta_min >= 0
            require(is_rate, "scheduler.eta_min", self.eta_min, "must be a finite number >= 0")
            require_choice("scheduler.per", str(self.per), ("step", "epoch"))
        for key in ("eta_min", "per"):
            require(
                self.name == "cosine_annealing" or getattr(self, key) is None,
                f"scheduler.{key}",
                getattr(self, key),
                f"{self.name} has none; use scheduler=cosine_annealing, or set it to null",
            )
