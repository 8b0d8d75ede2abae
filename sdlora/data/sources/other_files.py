"""Findings of files in a data folder that are no picture, caption, mask or table."""

import os
from collections.abc import Collection, Sequence

from sdlora.data.pictures.picture import ERROR, WARNING, Finding
from sdlora.data.pictures.picture_formats import NUM_START_BYTES, OTHER_PICTURES, picture_format
from sdlora.data.sources.scan import OtherFile

_KNOWN = {
    (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"): "a film; save frames of it as PNG",
    (
        ".zip",
        ".tar",
        ".gz",
        ".tgz",
        ".rar",
        ".7z",
    ): "an archive; unpack it, or set data.root to it",
    (".npz", ".npy"): "latents of another trainer; this one keeps its own in the cache",
}
"""Endings of files that hold no caption and no picture -> what they hold."""

_ENDINGS = {"JPEG": "jpg", "HEIF": "heic", "JPEG XL": "jxl", "JPEG2000": "jp2"}


def findings_of_others(others: Sequence[OtherFile], pictures: Collection[str]) -> list[Finding]:
    """A finding for each file whose name means nothing.

    One that holds a picture is an error, since it would be left out; so is a picture of a kind that
    is not read, unless a picture of its name is there. All others are warnings.

    Args:
        others: The files; their first bytes are read.
        pictures: Names of the pictures without their endings.
    """
    return [Finding(other.name, "other_file", *_reason(other, pictures)) for other in others]


def _reason(other: OtherFile, pictures: Collection[str]) -> tuple[str, str]:
    """What is to be said of a file, and how severe it is."""
    name, ending = os.path.splitext(other.name)
    ending = ending.casefold()
    if ending in OTHER_PICTURES and name in pictures:
        return "is not read, as a picture of its name is there", WARNING
    if ending in OTHER_PICTURES:
        return f"is a picture of a kind that is not read ({ending}); save it as PNG", ERROR
    for endings, reason in _KNOWN.items():
        if ending in endings:
            return f"is not read: {reason}", WARNING
    if kind := _content(other.path):
        better = f"{other.stem}.{_ENDINGS.get(kind, kind.casefold())}"
        reason = f"holds a {kind} picture, which its ending hides; rename it, such as to {better}"
        return reason, ERROR
    return "is not read: its ending is none of a picture, caption or table", WARNING


def _content(path: str) -> str | None:
    try:
        with open(path, "rb") as stream:
            return picture_format(stream.read(NUM_START_BYTES))
    except OSError:
        return None
