"""Captions: read from text files, refused with a reason, and what a tokenizer cuts off them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_CAPTION_BYTES = 65_536
"""A longer file is no caption: it is refused before it is read."""

_CONTROL_WORDS = re.compile(r"<\|(?:startoftext|endoftext)\|>")


class CaptionError(ValueError):
    """A caption file that cannot be used; the message is the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One captioned picture of a source.

    Attributes:
        name: The picture's name, unique in its source.
        caption: What it shows.
    """

    name: str
    caption: str


def read_caption(path: Path) -> str:
    """Read a caption file: all lines, stripped, joined by one space.

    Args:
        path: A UTF-8 text file, with or without byte order mark, any line ends.

    Returns:
        The caption, never empty.

    Raises:
        CaptionError: If the file is longer than ``MAX_CAPTION_BYTES``, is not UTF-8 (with the
            offset of the first wrong byte), holds NUL or a tokenizer's control word, or no
            visible character.
        OSError: If it cannot be read at all.
    """
    if (size := path.stat().st_size) > MAX_CAPTION_BYTES:
        raise CaptionError(f"holds {size} bytes, more than {MAX_CAPTION_BYTES}; shorten the text")
    text = _decoded(path.read_bytes())
    caption = " ".join(line.strip() for line in text.splitlines() if line.strip())
    if "\0" in caption:
        raise CaptionError("holds a NUL character; write the text again as plain UTF-8")
    if word := _CONTROL_WORDS.search(caption):
        raise CaptionError(f"holds {word[0]}, which ends a caption for the tokenizer; remove it")
    if not any(character.isprintable() and not character.isspace() for character in caption):
        raise CaptionError("is empty; write what the picture shows")
    return caption


def cut_report(samples: Sequence[Sample], cut: Sequence[str]) -> list[str]:
    """Say which captions the tokenizer cuts, and what each of them loses.

    Args:
        samples: The samples whose captions were tokenised.
        cut: For each sample the words that were lost, ``""`` if none; as long as ``samples``.

    Returns:
        One line for each caption that is cut.
    """
    return [
        f'{quoted(sample.name)}: too long for the tokenizer, which does not see "{lost.strip()}"'
        for sample, lost in zip(samples, cut, strict=True)
        if lost.strip()
    ]


def quoted(name: str) -> str:
    """A file name for a message: as it is, or escaped if it holds line breaks and the like."""
    return name if name.isprintable() else repr(name)


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
