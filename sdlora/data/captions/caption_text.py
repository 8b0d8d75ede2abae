"""Reading and checks of caption texts: UTF-8, length, not empty."""

import re
from pathlib import Path

MAX_CAPTION_BYTES = 65_536
"""Longest caption; a larger file is refused before it is read."""


_CONTROL_WORDS = re.compile(r"<\|(?:startoftext|endoftext)\|>")


_NUMBER_BEHIND = re.compile(r"(?:[\s_-]+\d+|\s*\(\d+\))$")
_WORDS_OF_A_CAPTION = 3


class CaptionError(ValueError):
    """A caption that cannot be used; the message gives reason and remedy."""


def read_caption_text(path: Path) -> str:
    """Read a caption file: its lines that are not blank, stripped.

    Args:
        path: A UTF-8 text file, with or without byte order mark, any line ends.

    Returns:
        The lines, ``\\n`` between them; never empty.

    Raises:
        CaptionError: If the file is not UTF-8 (with the offset of the first wrong byte), or if
            :func:`check_caption_text` refuses it.
        OSError: If it cannot be read at all.
    """
    if (size := path.stat().st_size) > MAX_CAPTION_BYTES:
        raise CaptionError(_too_large(size))
    return check_caption_text(_decoded(path.read_bytes()))


def check_caption_text(text: str) -> str:
    """Check a caption of any origin, such as a row of a table, like one from a file.

    Returns:
        Its lines that are not blank, stripped, ``\\n`` between them; never empty.

    Raises:
        CaptionError: If the text is longer than ``MAX_CAPTION_BYTES`` in UTF-8, holds NUL, half a
            surrogate pair or a tokenizer's control word, or no visible character.
    """
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise CaptionError(
            f"holds half a surrogate pair at character {error.start}; write the text again"
        ) from error
    if size > MAX_CAPTION_BYTES:
        raise CaptionError(_too_large(size))
    lines = (line.strip() for line in text.removeprefix("\ufeff").splitlines())
    caption = "\n".join(line for line in lines if line)
    if "\0" in caption:
        raise CaptionError("holds a NUL character; write the text again as plain UTF-8")
    if word := _CONTROL_WORDS.search(caption):
        raise CaptionError(f"holds {word[0]}, which ends a caption for the tokenizer; remove it")
    if not any(character.isprintable() and not character.isspace() for character in caption):
        raise CaptionError("is empty; write what the picture shows")
    return caption


def caption_of_name(stem: str) -> str | None:
    """The caption that a file's name is: ``a_red_car (2)`` is "a red car"; ``None``: no words."""
    text = _NUMBER_BEHIND.sub("", stem.strip()).replace("_", " ").strip()
    return text if any(letter.isalpha() for letter in text) else None


def looks_like_caption(stem: str) -> bool:
    """Whether a file's name may be meant as a caption: three words or more."""
    words = [word for word in (caption_of_name(stem) or "").split() if word.isalpha()]
    return len(words) >= _WORDS_OF_A_CAPTION


def _too_large(size: int) -> str:
    return f"holds {size} bytes, more than {MAX_CAPTION_BYTES}; shorten the text"


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CaptionError("is UTF-16 (byte order mark at byte 0); save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise CaptionError(
            f"is not UTF-8: byte 0x{byte:02x} at offset {error.start}; save it as UTF-8"
        ) from error
