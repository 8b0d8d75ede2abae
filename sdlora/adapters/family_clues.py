"""What the layers of a LoRA file tell of its model family, and what a family is recognised by."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from sdlora.adapters.layer_paths import place_of

Size = tuple[int | None, int | None]
"""Outputs and inputs of a layer; ``None``: its tensors do not tell."""

_PREFIX = re.compile(
    r"(?:base_model\.model\.|model\.)*"
    r"(?:diffusion_model\.|transformer\.|unet\.|lora_unet_|lora_transformer_|lycoris_)?"
)


@dataclass(frozen=True)
class Clues:
    """What is known of the layers of a file.

    Attributes:
        layers: Layers by the file's own names -> sizes.
        version: What its header says of its base, in lower case.
    """

    layers: Mapping[str, Size]
    version: str = ""

    @cached_property
    def text(self) -> str:
        """All names with ``_`` for dots and without the denoiser's prefix, a line each."""
        return "\n".join(self.flat)

    @cached_property
    def flat(self) -> dict[str, Size]:
        """The same -> sizes."""
        return {_flat(name): size for name, size in self.layers.items()}

    @cached_property
    def parts(self) -> frozenset[str]:
        """Parts of a Stable Diffusion that the names are of."""
        places = (place_of(name) for name in self.layers)
        return frozenset(place[0] for place in places if place is not None)

    def has(self, pattern: str) -> bool:
        """Whether a pattern is found in a name."""
        return re.search(pattern, self.text, re.MULTILINE) is not None

    def inputs(self, pattern: str) -> set[int]:
        """Numbers of inputs of the layers whose names hold a pattern."""
        found = (size[1] for name, size in self.flat.items() if re.search(pattern, name))
        return {number for number in found if number is not None}

    def ratios(self, pattern: str) -> set[float]:
        """Outputs over inputs of the layers whose names hold a pattern."""
        sizes = [size for name, size in self.flat.items() if re.search(pattern, name)]
        return {out / inside for out, inside in sizes if out and inside}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFamily:
    """A model family as its LoRA files show it: one entry of the table.

    Attributes:
        name: Its ``model.family`` in this project, where it has one.
        title: Its name for people.
        marks: Patterns of flat layer names (:attr:`Clues.text`); one must be found.
        unless: Patterns that exclude it.
        fits: Whether sizes and names are of it: ``True`` decides, ``False`` excludes, ``None``
            leaves it possible.
        versions: Beginnings of ``ss_base_model_version`` or ``modelspec.architecture``.
    """

    name: str
    title: str
    marks: tuple[str, ...]
    unless: tuple[str, ...] = ()
    fits: Callable[[Clues], bool | None] = lambda clues: None
    versions: tuple[str, ...] = ()

    def verdict(self, clues: Clues) -> bool | None:
        """Whether a file is of this family; ``None``: possible."""
        if not any(clues.has(mark) for mark in self.marks):
            return False
        if any(clues.has(mark) for mark in self.unless):
            return False
        return self.fits(clues)


@dataclass(frozen=True, slots=True)
class FoundFamily:
    """The family of a file, or those that it may be of.

    Attributes:
        candidates: Families that it may be of, the likeliest first; empty: of none that is known.
        by_header: Whether only its header decided.
    """

    candidates: tuple[LoraFamily, ...] = ()
    by_header: bool = field(default=False)

    @property
    def is_certain(self) -> bool:
        """Whether it is of one family."""
        return len(self.candidates) == 1

    @property
    def title(self) -> str:
        """Its name for people."""
        return " or ".join(each.title for each in self.candidates) or "an unknown family"

    @property
    def name(self) -> str | None:
        """``model.family`` of the likeliest; ``None`` if no family is known."""
        return self.candidates[0].name if self.candidates else None


def _flat(name: str) -> str:
    return _PREFIX.sub("", name, count=1).replace(".", "_")
