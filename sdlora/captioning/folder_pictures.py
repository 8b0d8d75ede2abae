"""The pictures of a folder, and where the caption of each is or will be."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sdlora.data.pictures.picture import ERROR, Finding, quoted
from sdlora.data.pictures.picture_formats import PICTURE_SUFFIXES
from sdlora.data.sources.pairing import Candidate, Endings, Pairing
from sdlora.data.sources.picture_source import DataError
from sdlora.data.sources.scan import Folder, FolderScan

_LACKING = "no_caption"  # the kind of finding of a picture without one


class Captionable(NamedTuple):
    """A picture that may be captioned.

    Attributes:
        name: Its path below the folder.
        picture: Its file.
        target: The file of its caption: the one that it has, else ``NAME.txt`` beside it.
        has_caption: Whether that file holds a caption.
    """

    name: str
    picture: Path
    target: Path
    has_caption: bool


@dataclass(slots=True)
class FolderPictures:
    """What a folder holds.

    Attributes:
        pictures: Pictures that may be captioned, by name.
        in_tables: Names of those whose captions stand in a table.
        refused: Pictures that cannot be captioned, with reason and remedy.
        notes: Remarks on files that are not read.
    """

    pictures: list[Captionable] = field(default_factory=list)
    in_tables: list[str] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def folder_pictures(folder: Path, caption_endings: Sequence[str]) -> FolderPictures:
    """List a folder and its sub-folders as training does; no picture is opened.

    A caption file without a letter is none. The held-out folder is not read.

    Args:
        folder: The folder.
        caption_endings: Endings of caption files.

    Raises:
        DataError: If there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder}: {what}; give the folder of the pictures")
    root = Folder(os.path.abspath(folder), "", 0, is_root=True)
    endings = Endings(caption_endings)
    scan = FolderScan([root], endings.classify, nested=True)
    pairing = Pairing(endings, lambda folder, stem: None, scan.is_read)
    candidates = sorted(pairing.candidates(list(scan.listings())), key=lambda each: each.name)
    found = FolderPictures(notes=[*scan.notes(), *pairing.notes()])
    if not candidates:
        notes = "".join(f"\n  note: {note}" for note in found.notes)
        looked = ", ".join(PICTURE_SUFFIXES)
        raise DataError(f"{folder}: no picture; looked for {looked} (any letter case){notes}")
    by_name: dict[str, list[Finding]] = defaultdict(list)
    for finding in (*scan.findings, *pairing.findings):
        if finding.severity == ERROR:
            by_name[finding.name].append(finding)
    counts = Counter(Path(each.picture.path).with_suffix("") for each in candidates)
    for candidate in candidates:
        is_single = counts[Path(candidate.picture.path).with_suffix("")] == 1
        _sort_in(candidate, by_name[candidate.name], found, is_single)
    return found


def _sort_in(
    candidate: Candidate, findings: Sequence[Finding], found: FolderPictures, is_single: bool
) -> None:
    """Put a picture where it belongs."""
    name, picture = candidate.name, Path(candidate.picture.path)
    target = picture.with_suffix(".txt")
    others = [each for each in findings if each.kind != _LACKING]
    if not is_single:
        reason = (
            f"pictures of one name would share the caption file {quoted(target.name)}; keep or "
            "rename one of them"
        )
        found.refused.append(Finding(name, "doubles", reason))
    elif others:
        found.refused += others
    elif candidate.caption is not None:
        target = Path(candidate.caption.path)
        has_caption = not _is_blank(target, candidate.caption.num_bytes)
        found.pictures.append(Captionable(name, picture, target, has_caption))
    elif candidate.text is not None:
        found.in_tables.append(name)
    elif findings:
        found.pictures.append(Captionable(name, picture, target, False))
    else:
        reason = f"what is named {quoted(target.name)} is no caption file; remove it"
        found.refused.append(Finding(name, "caption", reason))


def _is_blank(path: Path, num_bytes: int) -> bool:
    """Whether a caption file holds spaces and line ends alone, so that nothing is lost with it."""
    try:
        return num_bytes < 64 and not path.read_bytes().removeprefix(b"\xef\xbb\xbf").strip()
    except OSError:
        return False


def unwritable(pictures: Sequence[Captionable], folder: Path) -> list[Finding]:
    """Those whose caption files cannot or must not be written: links, and closed folders."""
    root = os.path.realpath(folder)
    closed: dict[Path, str | None] = {}
    found = []
    for each in pictures:
        place = each.target.parent
        if place not in closed:
            closed[place] = _closed(place, root)
        reason = closed[place]
        if reason is None and each.target.is_symlink():
            reason = (
                f"its caption {quoted(each.target.name)} is a link to "
                f"{os.path.realpath(each.target)}, which would be replaced; change that file, or "
                "remove the link"
            )
        if reason is not None:
            found.append(Finding(each.name, "unwritable", reason))
    return found


def _closed(place: Path, root: str) -> str | None:
    """Why nothing is written into a folder; ``None``: nothing prevents it."""
    real = Path(os.path.realpath(place))
    if not real.is_relative_to(root):
        return f"lies in a linked folder elsewhere; caption that one: sdlora caption {real}"
    if not os.access(place, os.W_OK):
        return f"{place} cannot be written; make it writable, or copy the pictures to another"
    return None
