"""Captions of samples, made from the text of a picture as ``data.captions`` says."""

import re
from collections.abc import Sequence

import torch

from sdlora.config.captions import CaptionsConfig
from sdlora.config.rules import ConfigError
from sdlora.data.captions.caption_text import CaptionError, check_caption_text
from sdlora.runtime.randomness import chance, derive_seed, generator

_ALTERNATIVES = r"\{([^{}]*\|[^{}]*)\}"
_WILDCARD = re.compile(rf"\{{{_ALTERNATIVES}\}}|{_ALTERNATIVES}")  # {{a|b}} is no choice: literal
_BROKEN_WILDCARD = re.compile(r"\{[^}]*\||\|[^{]*\}")


def is_static(recipe: CaptionsConfig) -> bool:
    """Whether all samples of a picture have one caption, except for caption dropout."""
    chosen = recipe.lines == "random" or recipe.wildcards
    return not (chosen or recipe.shuffle or recipe.tag_dropout)


def static_caption(recipe: CaptionsConfig, text: str, root_prefix: str = "") -> str:
    """The one caption of a picture's samples; the recipe must be static."""
    assert is_static(recipe), "captions of this recipe differ from sample to sample"
    return _composed(recipe, text, root_prefix, 0, 0)


def sample_caption(
    recipe: CaptionsConfig, text: str, root_prefix: str, seed: int, sample_index: int
) -> str:
    """The caption of one sample: the same in any process and after any resume.

    In this order: lines, wildcards, tags, prefixes and suffix, dropout. A wildcard
    ``{red|blue}`` is replaced by one of its alternatives, equally likely; ``{{red|blue}}`` gives
    ``{red|blue}`` literally; braces without ``|`` are literal. A text with nested wildcards is used
    literally.

    Args:
        recipe: How it is made.
        text: The caption as written; lines end in ``\\n``. ``""`` leaves the prefixes.
        root_prefix: Put in front of everything else.
        seed: The run's seed.
        sample_index: Global counter of the stream.
    """
    index = torch.tensor([sample_index])
    if bool(chance(seed, "caption_dropout", index, recipe.dropout)):
        return ""
    return _composed(recipe, text, root_prefix, seed, sample_index)


def split_tags(recipe: CaptionsConfig, text: str) -> list[str]:
    """The tags of a text, of all its lines; they are split at the separator without its spaces."""
    mark = recipe.separator.strip()
    parts = text.replace("\n", mark).split(mark)
    return [tag for part in parts if (tag := part.strip())]


def check_frame(recipe: CaptionsConfig) -> None:
    """Check prefix and suffix of the captions like captions themselves.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    for key in ("prefix", "suffix"):
        value = getattr(recipe, key)
        try:
            check_caption_text(value) if value.strip() else None
        except CaptionError as error:
            raise ConfigError(f"data.captions.{key}={value!r}: {error}") from error


def has_broken_wildcard(text: str) -> bool:
    """Whether a ``{a|b}`` is not closed, not opened, or lies within another."""
    return "|" in text and bool(_BROKEN_WILDCARD.search(_WILDCARD.sub("", text)))


def _composed(recipe: CaptionsConfig, text: str, root_prefix: str, seed: int, index: int) -> str:
    lines = text.split("\n")
    if recipe.lines == "random" and len(lines) > 1:
        lines = [lines[derive_seed(seed, "caption_line", index) % len(lines)]]
    elif recipe.lines == "first":
        lines = lines[:1]
    body = (recipe.separator if recipe.tags else " ").join(lines)
    if recipe.wildcards and "|" in body:
        body = _chosen(body, seed, index)
    if recipe.tags:
        body = recipe.separator.join(_varied(recipe, split_tags(recipe, body), seed, index))
    return _framed(recipe, (root_prefix, recipe.prefix, body, recipe.suffix))


def _varied(recipe: CaptionsConfig, tags: list[str], seed: int, index: int) -> list[str]:
    fixed, free = tags[: recipe.keep_tokens], tags[recipe.keep_tokens :]
    if recipe.tag_dropout > 0.0 and free:
        draws = torch.rand(len(free), generator=generator(seed, "caption_tag_dropout", index))
        dropped = (draws < recipe.tag_dropout).tolist()
        free = [tag for tag, gone in zip(free, dropped, strict=True) if not gone]
    if recipe.shuffle and len(free) > 1:
        order = torch.randperm(len(free), generator=generator(seed, "caption_shuffle", index))
        free = [free[place] for place in order.tolist()]
    return fixed + free


def _framed(recipe: CaptionsConfig, parts: Sequence[str]) -> str:
    """Join by the separator between tags, else by a space, but none before a comma."""
    if recipe.tags:
        tidy = (part.strip().strip(recipe.separator.strip()).strip() for part in parts)
        return recipe.separator.join(part for part in tidy if part)
    caption = ""
    for part in (part.strip() for part in parts if part.strip()):
        caption += part if not caption or part[0] in ",.;:!?" else f" {part}"
    return caption


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
