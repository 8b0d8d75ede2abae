"""The typed schema of ``logger.*``: where curves go."""

from dataclasses import dataclass, field

from sdlora.config.rules import require_choice

LOGGERS = ("tensorboard", "csv", "wandb")


@dataclass(slots=True, kw_only=True)
class LoggerConfig:
    """Where training curves are written."""

    names: list[str] = field(default_factory=list)
    """Where curves go: any of ``tensorboard``, ``csv`` and ``wandb``, which keeps its files in the
    run folder and sends nothing unless the environment has ``WANDB_MODE=online``."""

    def __post_init__(self) -> None:
        for name in self.names:
            require_choice("logger.names", name, LOGGERS)
