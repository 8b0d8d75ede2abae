"""The protocol of captioners, and what they are built with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image


@dataclass(frozen=True, slots=True)
class Compute:
    """Where and in what precision a captioner computes.

    Attributes:
        device: Its device.
        dtype: Of its weights.
    """

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user may ask of a captioner; each takes what concerns it.

    Attributes:
        instruction: What is asked about each picture; ``None``: the captioner's own.
        max_new_tokens: Most tokens of an answer, >= 1.
        general: Probability from which a general tag counts, in (0, 1).
        character: Probability from which the name of a character counts, in (0, 1).
    """

    instruction: str | None = None
    max_new_tokens: int = 120
    general: float = 0.35
    character: float = 0.85


class Captioner(Protocol):
    """A model that describes pictures."""

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Describe pictures, mode ``RGB``, of any sizes: one raw text each, at least one picture.

        The same pictures give the same texts.
        """
