"""The typed schema of ``sampling.*``: what validation pictures show and how they are drawn."""

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from sdlora.config.effect import TRAINING, above, absent, given, where
from sdlora.config.rules import (
    require,
    require_count,
    require_rate,
)

DRAWN = absent("images")
"""Pictures are drawn; ``evaluate.py images=`` scores those of other programs."""

CAPTIONS = "captions"
"""Value of ``sampling.prompts`` for the captions of the pictures."""


@dataclass(slots=True, kw_only=True)
class SamplingConfig:
    """Which validation pictures are drawn, how, and how often."""

    prompts: Any = field(
        default=MISSING, metadata=where(DRAWN)
    )  # OmegaConf merges no ``str | list[str] | None``
    """Text file with one prompt a line, or ``example:NAME`` for a shipped one; blank lines are left
    out. A list, such as ``[a man in snow,a man at sea]``: the prompts themselves. ``captions``: the
    different captions of the held-out pictures, or, where none of these has one, of the training
    pictures. ``null`` for an unconditional model: each seed is a picture."""
    num_prompts: int | None = field(default=None, metadata=where(DRAWN))
    """Number of prompts to use, from the first; ``null``: all of a file, 8 captions."""
    prompt_prefix: str = field(default=MISSING, metadata=where(DRAWN, given(".prompts")))
    """Put in front of every prompt, such as a trigger word with a comma and a space."""
    trigger_word: str | None = field(default=None, metadata=where(DRAWN, given(".prompts")))
    """Put in front of prompts that do not have it, and of their prefix; ``null``: of none."""
    negative_prompt: str = field(
        default=MISSING, metadata=where(DRAWN, above(".guidance_scale", 1))
    )
    """Negative prompt: what the pictures should not show."""
    sampler: str = field(default=MISSING, metadata=where(DRAWN))
    """ddim, ddpm, dpm++, dpm++_karras, euler, euler_a, heun, unipc, ..."""
    num_steps: int = field(default=MISSING, metadata=where(DRAWN))
    """Denoising steps a picture; >= 1."""
    guidance_scale: float = field(default=MISSING, metadata=where(DRAWN))
    """Classifier-free guidance; 1 is off."""
    seeds: list[int] = field(default_factory=list, metadata=where(DRAWN))
    """Every prompt is drawn once with each seed."""
    num_seeds: int | None = field(default=None, metadata=where(DRAWN))
    """Number of seeds: ``sampling.seeds``, then the whole numbers after the largest of them;
    ``null``: ``sampling.seeds`` alone."""
    batch_size: int = field(default=MISSING, metadata=where(DRAWN))
    """Pictures drawn in one batch; >= 1."""
    every_n_steps: int = field(
        default=MISSING,
        metadata=where(TRAINING, absent(".every_n_epochs")),
    )
    """Optimizer steps between validation pictures; 0: only at the end."""
    every_n_epochs: float | None = field(default=None, metadata=where(TRAINING))
    """Epochs between validation pictures, in place of ``every_n_steps``, which they become; > 0.
    ``null``: as that says."""
    num_preview: int = MISSING
    """Number of prompts that are drawn for a preview while training; >= 1."""

    def __post_init__(self) -> None:
        self.prompts = _checked_prompts(self.prompts)
        for name in ("num_steps", "batch_size", "num_preview"):
            require_count(f"sampling.{name}", getattr(self, name))
        require_count("sampling.every_n_steps", self.every_n_steps, 0)
        if self.every_n_epochs is not None:
            require_rate("sampling.every_n_epochs", self.every_n_epochs)
        if self.num_prompts is not None:
            require_count("sampling.num_prompts", self.num_prompts)
            require(
                self.prompts is not None,
                "sampling.num_prompts",
                self.num_prompts,
                "there are no prompts (sampling.prompts=null); set it to null, and "
                "sampling.num_seeds to the number of pictures",
            )
        if self.num_seeds is not None:
            require_count("sampling.num_seeds", self.num_seeds)
        require(bool(self.seeds), "sampling.seeds", self.seeds, "give at least one seed")
        require(
            math.isfinite(self.guidance_scale) and self.guidance_scale >= 0,
            "sampling.guidance_scale",
            self.guidance_scale,
            "must be a finite number >= 0",
        )


def _checked_prompts(prompts: Any) -> str | list[str] | None:
    """The prompts as text; a list holds at least one, and none without words."""
    key = "sampling.prompts"
    if not isinstance(prompts, list):
        is_text = prompts is None or isinstance(prompts, str)
        require(is_text, key, prompts, "must be a text file, a list of prompts, or captions")
        return None if prompts is None else str(prompts)
    found = [" ".join(str(prompt).split()) for prompt in prompts]
    nested = any(isinstance(prompt, list | dict) for prompt in prompts)
    reason = "needs prompts with words, such as [a man in snow,a man at sea]"
    require(bool(found) and all(found) and not nested, key, prompts, reason)
    return found
