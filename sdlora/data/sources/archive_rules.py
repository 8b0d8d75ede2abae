"""Limits of what an archive may hold: safe and distinct names, number and size of files."""

import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, NamedTuple

from sdlora.data.pictures.picture import quoted

_MIB = 2**20
_BY_HAND = "if you trust it, unpack it by hand and give the folder"

_ON_WINDOWS = os.name == "nt"

# a colon names a stream of another file, and the others are devices in every folder
_NOT_ON_WINDOWS = re.compile(r"[:*?\"<>|]|^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)|[. ]$", re.I)


class ArchiveError(ValueError):
    """An archive that is refused; the message gives reason and remedy."""


class Entry(NamedTuple):
    """A file or folder of an archive.

    Attributes:
        name: Untrusted name from the archive, ``/`` or ``\\`` between folders.
        is_folder: Whether it is a folder.
        num_bytes: Its size, as the archive claims.
        open: Opens it; valid until the next entry is read.
    """

    name: str
    is_folder: bool
    num_bytes: int
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits against zip bombs.

    Attributes:
        max_entries: Files and folders; 100,000 pictures, each with caption and mask, and room.
        max_bytes: Total size of all files.
        max_ratio: Unpacked bytes per byte of the archive; pictures hardly shrink, captions tenfold.
        harmless_bytes: Size up to which the ratio does not matter.
    """

    max_entries: int = 500_000
    max_bytes: int = 200 * 2**30
    max_ratio: float = 100.0
    harmless_bytes: int = 64 * _MIB


def safe_parts(name: str) -> tuple[str, ...]:
    r"""Split an entry's name into folders and file, if it stays inside the target folder.

    Backslashes separate folders, as some packers for Windows write them.

    Raises:
        ArchiveError: For an absolute name, one with a drive or ``..``, or one without a file.
    """
    name_on_disk = name.replace("\\", "/")
    parts = tuple(part for part in name_on_disk.split("/") if part not in ("", "."))
    if name_on_disk.startswith("/") or re.match("[A-Za-z]:", name_on_disk):
        raise ArchiveError(f"{quoted(name)} is an absolute name; pack the folder again")
    if ".." in parts:
        raise ArchiveError(
            f"{quoted(name)} leads out of the archive by '..'; pack the folder again"
        )
    if "\0" in name or (_ON_WINDOWS and any(map(_NOT_ON_WINDOWS.search, parts))):
        raise ArchiveError(f"{quoted(name)} cannot be the name of a file here; rename it")
    return parts


class Names:
    """Names so far, compared as the least strict file system does: no two may be one file."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}  # as compared -> as the archive has it
        self._folders: dict[str, str] = {}

    @property
    def num_files(self) -> int:
        """Number of files so far."""
        return len(self._files)

    def add(self, entry: Entry, parts: tuple[str, ...]) -> None:
        """Add an entry; raises ``ArchiveError`` if its path is that of another one."""
        folded = [unicodedata.normalize("NFC", part).casefold() for part in parts]
        above = folded if entry.is_folder else folded[:-1]
        for depth in range(len(above), 0, -1):
            folder = "/".join(above[:depth])
            if folder in self._folders:
                break
            self._refuse(entry, self._files.get(folder))
            self._folders[folder] = entry.name
        if entry.is_folder:
            return
        file = "/".join(folded)
        if not file:
            raise ArchiveError(f"{quoted(entry.name)} is no valid file name; pack the folder again")
        self._refuse(entry, self._files.get(file, self._folders.get(file)))
        self._files[file] = entry.name

    def _refuse(self, entry: Entry, other: str | None) -> None:
        if other is not None:
            raise ArchiveError(
                f"{quoted(entry.name)} has the same path as {quoted(other)} on some file systems; "
                "rename one of them"
            )


class Budget:
    """What may still be unpacked of an archive; actual bytes are counted, since headers lie."""

    def __init__(self, limits: Limits, archive_bytes: int) -> None:
        self._limits = limits
        self._by_ratio = max(limits.max_ratio * archive_bytes, limits.harmless_bytes)
        self._num_entries = 0
        self._num_bytes = 0

    def add_entry(self, entry: Entry) -> None:
        """Count an entry, and refuse it if it claims too much."""
        self._num_entries += 1
        if self._num_entries > self._limits.max_entries:
            raise ArchiveError(
                f"holds more than {self._limits.max_entries} files and folders, of which "
                f"{quoted(entry.name)} is the next; {_BY_HAND}"
            )
        self._check(entry, self._num_bytes + entry.num_bytes)

    def add_bytes(self, entry: Entry, num_bytes: int) -> None:
        """Count the actual bytes of an entry."""
        self._num_bytes += num_bytes
        self._check(entry, self._num_bytes)

    def _check(self, entry: Entry, num_bytes: int) -> None:
        if num_bytes > self._limits.max_bytes:
            limit = f"{self._limits.max_bytes} bytes"
        elif num_bytes > self._by_ratio:
            limit = f"{self._limits.max_ratio:g} times its own size, as a bomb does"
        else:
            return
        raise ArchiveError(f"unpacks, with {quoted(entry.name)}, to more than {limit}; {_BY_HAND}")
