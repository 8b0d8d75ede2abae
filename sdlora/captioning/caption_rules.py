"""Rules by which a captioner's raw text becomes a caption."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from sdlora.data.captions.trigger_word import with_trigger_word

CAPTION = "{caption}"
"""Stands for the captioner's text in a template."""

_TOKENS = re.compile(r"<\|[^|<>\s]*\|>|</?s>|<pad>")
"""Tokenizers' control words, which models write where their decoding keeps them."""


@dataclass(frozen=True, slots=True)
class CaptionRules:
    """What is done to each text, in the order of the attributes.

    Attributes:
        replaced: Words and what stands instead of them, whole and in any letter case.
        forbidden: Words that are left out: of tags those that are such a word, of sentences the
            words alone. What remains of a sentence is not put in order.
        template: Text with one ``{caption}``.
        trigger_word: In front, unless the text has it.
        is_tags: Whether the texts are lists of tags, with commas between them.
    """

    replaced: tuple[tuple[str, str], ...] = ()
    forbidden: tuple[str, ...] = ()
    template: str = CAPTION
    trigger_word: str | None = None
    is_tags: bool = False

    def applied(self, raw: str) -> str:
        """The caption of a raw text without the trigger word, in one line; ``""``: nothing left."""
        text = one_line(raw)
        for old, new in self.replaced:
            text = _whole(old).sub(lambda _, new=new: new, text)  # type: ignore[misc]
        if self.is_tags:
            gone = {word.casefold() for word in self.forbidden}
            tags = dict.fromkeys(tag.strip() for tag in text.split(","))
            text = ", ".join(tag for tag in tags if tag and tag.casefold() not in gone)
        else:
            for word in self.forbidden:
                text = _whole(word).sub("", text)
        text = tidy(text)
        if not any(letter.isalnum() for letter in text):
            return ""
        before, _, behind = self.template.partition(CAPTION)
        text = text.removesuffix(".") if behind.startswith(",") else text
        return tidy(f"{before}{text}{behind}")

    def with_trigger(self, caption: str) -> str:
        """A caption with the trigger word in front, unless it has it."""
        return with_trigger_word(caption, self.trigger_word)


def one_line(raw: str) -> str:
    """A text in one line, without control characters and tokenizers' control words."""
    visible = (" " if unicodedata.category(each) in ("Cc", "Cs") else each for each in raw)
    return " ".join(_TOKENS.sub(" ", "".join(visible)).replace("\ufeff", " ").split())


def tidy(text: str) -> str:
    """A text without spaces before commas, commas in a row, or commas at its ends."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+(?=[,.;:!?])", "", text)
    text = re.sub(r",(?:\s*,)+", ",", text)
    text = re.sub(r",\s*(?=[.;:!?])", "", text)
    return text.strip(" ,;:")


def shortened(text: str, fits: Callable[[str], bool], *, is_tags: bool) -> str:
    """The longest begin of a caption that fits: of whole tags, else of whole words.

    Args:
        text: The caption.
        fits: Whether a text is short enough; of a text that is, each begin is.
        is_tags: Whether it is a list of tags.
    """
    if fits(text):
        return text
    parts = text.split(", ") if is_tags else text.split()
    joint = ", " if is_tags else " "
    low, high = 0, len(parts) - 1  # the first `low` parts fit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(joint.join(parts[:middle])) else (low, middle - 1)
    return tidy(joint.join(parts[:low]))


def appended(old: str, new: str, *, is_tags: bool) -> str:
    """A caption with a new text behind it, unless it has it already: tags one by one."""
    if is_tags:
        have = {tag.strip().casefold() for tag in old.replace("\n", ",").split(",")}
        more = [tag for tag in new.split(", ") if tag.casefold() not in have]
        return ", ".join([old.rstrip(" ,"), *more])
    if new in old:
        return old
    return f"{old} {new}" if old.endswith((".", "!", "?")) else f"{old.rstrip(' ,')}, {new}"


def _whole(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(words.strip())}(?!\w)", re.IGNORECASE)
