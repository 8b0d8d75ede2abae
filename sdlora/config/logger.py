"""The typed schema of ``logger.*``: where curves go."""

from dataclasses import dataclass, field

from sdlora.config.rules import (
    require_choice,
)


@dataclass(slots=True, kw_only=True)
class LoggerConfig:
    """Where training curves are written."""

    names: list[str] = field(default_factory=list)
    """Where curves go: any of ``tensorboard``, ``csv``."""

    def __post_init__(self) -> None:
        for name in self.names:
            require_choice("logger.names", name, ("tensorboard", "csv"))
