"""The typed schema of the key ``data.prior``; values live in ``conf/data``, checks live here."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from sdlora.config.effect import of, where
from sdlora.config.rules import require, require_choice, require_count, require_rate


@dataclass(slots=True, kw_only=True)
class PriorConfig:
    """Prior preservation: training that keeps other members of the class as the base draws them."""

    mode: str = MISSING
    """Prior preservation: ``none``, ``class`` (class pictures train along) or ``teacher`` (the
    bare base's prediction for the class prompt is a target of every step)."""
    prompt: str = field(default=MISSING, metadata=where(of(".mode", "class", "teacher")))
    """The class prompt, such as ``a photo of a person``."""
    weight: float = field(default=MISSING, metadata=where(of(".mode", "class", "teacher")))
    """Weight of the prior loss; > 0."""
    root: str | None = field(default=None, metadata=where(of(".mode", "class")))
    """Folder of class pictures; ``null``: ``class_pictures`` in the run folder."""
    num_pictures: int = field(default=MISSING, metadata=where(of(".mode", "class")))
    """Number of class pictures; the base draws those that are missing. >= 1."""

    def __post_init__(self) -> None:
        require_choice("data.prior.mode", self.mode, ("none", "class", "teacher"))
        require_rate("data.prior.weight", self.weight)
        require_count("data.prior.num_pictures", self.num_pictures)
        require(
            self.mode == "none" or bool(self.prompt.strip()),
            "data.prior.prompt",
            self.prompt,
            "say what the subject is with data.class_word, such as person, or the whole prompt",
        )
