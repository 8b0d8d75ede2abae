"""Findings of captions (cut, shared, broken wildcards) and their frequent words."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from sdlora.config.captions import CaptionsConfig
from sdlora.data.captions.recipe import has_broken_wildcard, split_tags
from sdlora.data.pictures.picture import WARNING, Finding, Picture, quoted

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_STOP_WORDS = """
    a an and are as at be by for from has have her his in into is it its of on or that the their
    there this to under up was which while who with
"""
_QUOTED_LENGTH = 100

_PROMPT_SYNTAX = re.compile(
    r"\([^()]+:\s*[\d.]+\)|(?i:<(?:lora|lyco|hypernet):[^>]*>)|\bBREAK\b|\\[()]"
    r"|(?i:^\s*negative prompt:)|(?i:\bsteps: \d+, sampler:)",
    re.MULTILINE,
)
"""What programs that draw read as orders: weights, LoRAs, chunks, escapes, the settings below."""


def caption_findings(
    pictures: Sequence[Picture],
    recipe: CaptionsConfig,
    cut: Sequence[str],
    meant: Collection[str] = (),
) -> list[Finding]:
    """Warn of captions that are cut, shared, hold prompt syntax, or whose wildcards are broken.

    Args:
        pictures: Whose captions were tokenised.
        recipe: How they become captions of samples.
        cut: For each picture the words that the tokenizer loses, ``""`` if none; as long as
            ``pictures``.
        meant: Captions that the config gives to many pictures, which may be shared.
    """
    findings = [
        Finding(
            picture.name,
            "cut_caption",
            f"too long for the tokenizer, which cuts {_excerpt(lost.strip())}; "
            "shorten it or, where CLIP reads it, raise data.captions.max_chunks",
            WARNING,
        )
        for picture, lost in zip(pictures, cut, strict=True)
        if lost.strip()
    ]
    sharing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for picture in pictures:
        if recipe.wildcards and has_broken_wildcard(picture.text):
            reason = (
                "a {wildcard|choice} is not closed, not opened, or nested: the text is used "
                f"literally, {_excerpt(picture.text)}; correct it, or remove the braces"
            )
            findings.append(Finding(picture.name, "broken_wildcard", reason, WARNING))
        if order := _prompt_order(picture.text):
            reason = (
                f"holds {order}, an order to a program that draws, which is trained on as text; "
                "write it without"
            )
            findings.append(Finding(picture.name, "prompt_syntax", reason, WARNING))
        if picture.text and picture.text not in meant:
            sharing[picture.prefix, picture.text].append(picture.name)
    return findings + [
        Finding(names[0], "same_caption", _shared(text, names), WARNING)
        for (_, text), names in sharing.items()
        if len(names) > 1
    ]


def frequent_words(
    pictures: Sequence[Picture], recipe: CaptionsConfig, count: int = 20
) -> list[tuple[str, int]]:
    """The most frequent words of all captions (tags in tag mode) and how often each occurs.

    Lower case, the most frequent first, equals by name; common English words are left out.
    """
    counter: Counter[str] = Counter()
    for picture in pictures:
        text = picture.text.casefold()
        counter.update(split_tags(recipe, text) if recipe.tags else _WORD.findall(text))
    if not recipe.tags:
        for word in _STOP_WORDS.split():
            counter.pop(word, None)
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:count]


def _prompt_order(text: str) -> str:
    """The first piece of prompt syntax, quoted; ``""`` if there is none."""
    found = _PROMPT_SYNTAX.search(text)
    return "" if found is None else _excerpt(found[0].strip())


def _shared(text: str, names: Sequence[str]) -> str:
    others = ", ".join(quoted(name) for name in names[1:4]) + (", ..." if names[4:] else "")
    return (
        f"has the same caption as {len(names) - 1} other picture(s) ({others}), "
        f"{_excerpt(text)}; describe what differs"
    )


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    if len(line) <= _QUOTED_LENGTH:
        return f'"{line}"'
    return f'"{line[:_QUOTED_LENGTH].rstrip()}..." ({len(line.split())} words)'
