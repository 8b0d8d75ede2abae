"""Captions: texts read and checked, and made into the caption of one sample."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sdlora.data.captions.caption_text import CaptionError, check_caption_text
from sdlora.runtime.randomness import derive_seed, generator, uniform

LINES = ("all", "first", "random")

_ALTERNATIVES = r"\{([^{}]*\|[^{}]*)\}"
_WILDCARD = re.compile(rf"\{{{_ALTERNATIVES}\}}|{_ALTERNATIVES}")  # {{a|b}} is no choice: literal
_BROKEN_WILDCARD = re.compile(r"\{[^}]*\||\|[^{]*\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRecipe:
    """How the text of a picture becomes the caption of one sample.

    In this order: lines, wildcards, tags, prefixes and suffix, dropout. Every random choice is a
    function of seed and sample index.

    Attributes:
        lines: Which lines of the text: ``all`` (joined), the ``first``, or a ``random`` one.
        tags: Whether the text is a list of tags, to be split, varied and joined again.
        separator: Between tags when joined, ``", "``; they are split at it without its spaces.
        shuffle: Whether the tags come in a random order.
        keep_tokens: So many tags, the first ones, stay in place and are never dropped.
        tag_dropout: Probability that a tag is left out, [0, 1].
        dropout: Probability that the whole caption, prefixes too, becomes ``""``, [0, 1].
        prefix: Stands before the caption, behind the prefix of the picture's root.
        suffix: Stands behind the caption.
        wildcards: Whether ``{red|blue}`` stands for one of its alternatives, each as likely.
            ``{{red|blue}}`` stands for ``{red|blue}`` itself; braces without ``|`` mean nothing.
            Wildcards within wildcards are not read: such a text stays as it is.

    Raises:
        ValueError: If a value is out of range, or two of them exclude each other.
    """

    lines: str = "all"
    tags: bool = False
    separator: str = ", "
    shuffle: bool = False
    keep_tokens: int = 0
    tag_dropout: float = 0.0
    dropout: float = 0.0
    prefix: str = ""
    suffix: str = ""
    wildcards: bool = False

    def __post_init__(self) -> None:
        _require(self.lines in LINES, "lines", self.lines, f"must be one of {', '.join(LINES)}")
        _require(bool(self._mark), "separator", self.separator, "needs a visible character")
        _require(self.keep_tokens >= 0, "keep_tokens", self.keep_tokens, "a number of tags, >= 0")
        for key in ("tag_dropout", "dropout"):
            value = getattr(self, key)
            _require(0.0 <= value <= 1.0, key, value, "a probability, 0 to 1")
        for key in ("shuffle", "keep_tokens", "tag_dropout"):
            value = getattr(self, key)
            _require(
                self.tags or not value, key, value, "works on tags; set data.captions.tags=true"
            )
        for key in ("prefix", "suffix"):
            value = getattr(self, key)
            try:
                check_caption_text(value) if value.strip() else None
            except CaptionError as error:
                raise ValueError(f"data.captions.{key}={value!r}: {error}") from error

    @property
    def is_static(self) -> bool:
        """Whether all samples of a picture have one caption, dropout of the whole aside."""
        chosen = self.lines == "random" or self.wildcards
        return not (chosen or self.shuffle or self.tag_dropout)

    def static_caption(self, text: str, root_prefix: str = "") -> str:
        """The one caption of a picture's samples; the recipe must be static."""
        assert self.is_static, "captions of this recipe differ from sample to sample"
        return self._composed(text, root_prefix, 0, 0)

    def caption(self, text: str, root_prefix: str, seed: int, sample_index: int) -> str:
        """The caption of one sample: the same in any process, whatever was drawn before.

        Args:
            text: The caption as written; lines end in ``\\n``. ``""`` leaves the prefixes.
            root_prefix: Stands before everything else.
            seed: The run's seed.
            sample_index: Global counter of the stream.
        """
        if self.dropout > 0.0:
            index = torch.tensor([sample_index])
            if bool(uniform(seed, "caption_dropout", index) < self.dropout):
                return ""
        return self._composed(text, root_prefix, seed, sample_index)

    def split(self, text: str) -> list[str]:
        """The tags of a text, of all its lines."""
        parts = text.replace("\n", self._mark).split(self._mark)
        return [tag for part in parts if (tag := part.strip())]

    @property
    def _mark(self) -> str:
        return self.separator.strip()

    def _composed(self, text: str, root_prefix: str, seed: int, index: int) -> str:
        lines = text.split("\n")
        if self.lines == "random" and len(lines) > 1:
            lines = [lines[derive_seed(seed, "caption_line", index) % len(lines)]]
        elif self.lines == "first":
            lines = lines[:1]
        body = (self.separator if self.tags else " ").join(lines)
        if self.wildcards and "|" in body:
            body = _chosen(body, seed, index)
        if self.tags:
            body = self.separator.join(self._varied(self.split(body), seed, index))
        return self._framed((root_prefix, self.prefix, body, self.suffix))

    def _varied(self, tags: list[str], seed: int, index: int) -> list[str]:
        fixed, free = tags[: self.keep_tokens], tags[self.keep_tokens :]
        if self.tag_dropout > 0.0 and free:
            draws = torch.rand(len(free), generator=generator(seed, "caption_tag_dropout", index))
            dropped = (draws < self.tag_dropout).tolist()
            free = [tag for tag, gone in zip(free, dropped, strict=True) if not gone]
        if self.shuffle and len(free) > 1:
            order = torch.randperm(len(free), generator=generator(seed, "caption_shuffle", index))
            free = [free[place] for place in order.tolist()]
        return fixed + free

    def _framed(self, parts: Sequence[str]) -> str:
        """Join by the separator between tags, else by a space, but none before a comma."""
        if self.tags:
            tidy = (part.strip().strip(self._mark).strip() for part in parts)
            return self.separator.join(part for part in tidy if part)
        caption = ""
        for part in (part.strip() for part in parts if part.strip()):
            caption += part if not caption or part[0] in ",.;:!?" else f" {part}"
        return caption


def has_broken_wildcard(text: str) -> bool:
    """Whether a ``{a|b}`` is not closed, not opened, or lies within another."""
    return "|" in text and bool(_BROKEN_WILDCARD.search(_WILDCARD.sub("", text)))


def _chosen(text: str, seed: int, index: int) -> str:
    if has_broken_wildcard(text):
        return text
    draw = generator(seed, "caption_wildcard", index)

    def replacement(match: re.Match[str]) -> str:
        if match[1] is not None:
            return f"{{{match[1]}}}"
        options = match[2].split("|")
        return options[int(torch.rand((), generator=draw).item() * len(options))]

    return " ".join(_WILDCARD.sub(replacement, text).split())


def _require(is_met: bool, key: str, value: object, remedy: str) -> None:
    if not is_met:
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        raise ValueError(f"data.captions.{key}={shown}: {remedy}")
