"""The walk over folders and their files; no file is opened."""

import os
import posixpath
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sdlora.data.pictures.picture import ERROR, WARNING, Finding, listed, quoted
from sdlora.data.sources.file_index import FileKey
from sdlora.data.sources.folder_names import (
    CAPTION_FOLDERS,
    MASK_FOLDERS,
    is_held_out,
    is_hidden,
    is_own_output,
    is_system,
)

PICTURE = "picture"
"""Kind of files that are counted in folders that are not read."""


class Folder(NamedTuple):
    """A folder that is read."""

    path: str  # absolute
    prefix: str  # begins the names of its files: "" or, ending in "/", the folders above, NFC
    root: int  # number of its root
    is_root: bool = False

    def name(self, file: str) -> str:
        """Name in the run of a file of this folder."""
        return self.prefix + unicodedata.normalize("NFC", file)

    def name_of(self, file: FileKey) -> str:
        """Name in the run of a file of this folder or of one near it."""
        below = os.path.relpath(file.path, self.path).replace(os.sep, "/")
        return posixpath.normpath(self.name(below))


class OtherFile(NamedTuple):
    """A file whose name means nothing: no picture, caption, mask or table.

    Attributes:
        name: Its name in the run.
        path: Where it is.
        stem: Its name without ending, in its folder.
    """

    name: str
    path: str
    stem: str


@dataclass(slots=True)
class Listing:
    """The files of one folder by kind and stem.

    Attributes:
        folder: Where.
        files: Kind -> stem -> file.
        doubles: Kind and stem -> all files, if there are several.
        blocked: Stems of irregular files, each with a finding.
    """

    folder: Folder
    files: dict[str, dict[str, FileKey]] = field(default_factory=lambda: defaultdict(dict))
    doubles: dict[tuple[str, str], list[FileKey]] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)

    def add(self, kind: str, stem: str, file: FileKey) -> None:
        """Add a file."""
        first = self.files[kind].setdefault(stem, file)
        if first is not file:
            self.doubles.setdefault((kind, stem), [first]).append(file)

    def take(self, kind: str, stem: str) -> list[FileKey]:
        """Take out the files of a kind and stem."""
        files = self.all_of(kind, stem)
        self.files[kind].pop(stem, None)
        self.doubles.pop((kind, stem), None)
        return files

    def clear(self) -> None:
        """Take out all files."""
        self.files.clear()
        self.doubles.clear()

    def all_of(self, kind: str, stem: str) -> list[FileKey]:
        """The files of a kind and stem, by name; more than one is an error."""
        if doubles := self.doubles.get((kind, stem)):
            return sorted(doubles)
        file = self.files[kind].get(stem)
        return [] if file is None else [file]


class FolderScan:
    """One walk over roots and, if ``nested``, their sub-folders; masks and captions in any case.

    Hidden files and folders, those of operating systems, and folders that a run of this project
    wrote are not read; a note names those with pictures. Links to files and to folders elsewhere
    are followed, and named. A link to a folder that is read anyway, or that is held out, is not.

    Args:
        roots: Folders; none lies in another.
        classify: File name -> kind and stem, ``None`` for other files.
        nested: Whether sub-folders are read.

    Attributes:
        findings: Folders and files that cannot be read so far.
        others: Files whose names mean nothing, so far.
    """

    def __init__(
        self,
        roots: Sequence[Folder],
        classify: Callable[[str], tuple[str, str] | None],
        *,
        nested: bool,
    ) -> None:
        self.findings: list[Finding] = []
        self.others: list[OtherFile] = []
        self._roots = list(roots)
        self._real_roots = [Path(os.path.realpath(root.path)) for root in roots]
        self._classify = classify
        self._nested = nested
        self._linked: list[Folder] = []
        self._seen: set[tuple[int, int]] = set()
        self._prefixes: set[str] = set()
        self._unread: list[str] = []
        self._links: list[str] = []
        self._hidden: list[str] = []

    def listings(self) -> Iterator[Listing]:
        """Every folder, parents before children; linked folders after all others."""
        pending = self._roots[::-1]
        while pending or self._linked:
            if not pending:
                self._linked.sort(reverse=True)
                pending.append(self._linked.pop())
            folder = pending.pop()
            try:
                if self._is_new(folder):
                    listing, below = self._list(folder)
                    pending += reversed(below)
                    yield listing
            except OSError as error:
                reason = f"cannot be listed ({_why(error)}); check the folder"
                self._find(folder.prefix, "unreadable", reason)

    def is_read(self, folder: Folder, file: str) -> bool:
        """Whether pictures at a path below a folder are read."""
        first, _, below = file.partition("/")
        return not below or (self._nested and not (folder.is_root and is_held_out(first)))

    def notes(self) -> list[str]:
        """Remarks on folders that were not read, and on links, after the walk."""
        notes = list(self._unread)
        if self._hidden:
            notes.append(
                f"{len(self._hidden)} hidden files are not read: {listed(sorted(self._hidden))}"
            )
        if self._links:
            notes.append(
                f"{len(self._links)} links lead out of the data folder and are followed: "
                f"{listed(sorted(self._links))}"
            )
        return notes

    def _list(self, folder: Folder) -> tuple[Listing, list[Folder]]:
        listing = Listing(folder)
        folders: list[os.DirEntry[str]] = []
        with os.scandir(folder.path) as entries:
            for entry in entries:
                try:
                    if entry.is_dir():
                        folders.append(entry)
                    elif is_system(entry.name):
                        continue
                    elif is_hidden(entry.name):
                        if self._classify(entry.name) is not None:
                            self._hidden.append(folder.name(entry.name))
                    else:
                        self._sort_in(entry, listing)
                except OSError as error:  # a link that leads nowhere or in a circle
                    self._block(entry.name, listing, "broken_link", f"{_why(error)}; remove it")
        folders.sort(key=lambda entry: entry.name)
        return listing, [new for entry in folders for new in self._entered(entry, listing)]

    def _sort_in(self, entry: os.DirEntry[str], listing: Listing) -> None:
        kind_and_stem = self._classify(entry.name)
        name = listing.folder.name(entry.name)
        status = entry.stat()  # an error for a link that leads nowhere: it may have led to a folder
        if kind_and_stem is None:
            stem = unicodedata.normalize("NFC", os.path.splitext(entry.name)[0])
            self.others.append(OtherFile(name, entry.path, stem))
            return
        if not stat.S_ISREG(status.st_mode):
            self._block(entry.name, listing, "no_file", "is not a regular file; remove it")
            return
        if entry.is_symlink():
            self._follow(entry.path, name)
        file = FileKey(entry.path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        listing.add(*kind_and_stem, file)

    def _block(self, file: str, listing: Listing, kind: str, reason: str) -> None:
        self._find(listing.folder.name(file), kind, reason)
        kind_and_stem = self._classify(file)
        if kind_and_stem is not None:
            listing.blocked.add(kind_and_stem[1])

    def _entered(self, entry: os.DirEntry[str], listing: Listing) -> list[Folder]:
        """The sub-folder, if it is read now."""
        above = listing.folder
        name = listing.folder.name(entry.name)
        folder = Folder(entry.path, f"{name}/", above.root)
        if above.is_root and is_held_out(entry.name):
            self._unread.append(
                f"{quoted(name)}: {self._count(entry.path)} held-out pictures, not trained on"
            )
        elif what := self._left_out(entry, above):
            if count := self._count(entry.path):
                self._unread.append(f"{what} {quoted(name)} is not read ({count} pictures)")
        elif folder.prefix in self._prefixes:
            reason = "another folder has the same name in another Unicode form; rename one of them"
            self._find(name, "doubles", reason)
        else:
            self._prefixes.add(folder.prefix)
            if not entry.is_symlink():
                return [folder]
            if self._leads_back(entry.path):
                self._find(
                    name,
                    "loop",
                    "is a link to folders that are read or held out; remove it",
                    WARNING,
                )
            else:
                self._follow(entry.path, name)
                self._linked.append(folder)
        return []

    def _left_out(self, entry: os.DirEntry[str], above: Folder) -> str | None:
        """What kind of sub-folder is not read, for a note; ``None``: it is read."""
        if is_hidden(entry.name) or is_system(entry.name):
            return "hidden folder"
        if is_own_output(entry.path):
            return "folder of a run"
        is_read = self._nested or (above.is_root and self._is_companion(entry))
        return None if is_read else "sub-folder"

    def _is_companion(self, entry: os.DirEntry[str]) -> bool:
        """Whether a folder holds masks, or captions alone, of the pictures beside it."""
        name = entry.name.casefold()
        return name in MASK_FOLDERS or (name in CAPTION_FOLDERS and not self._count(entry.path))

    def _follow(self, path: str, name: str) -> None:
        """Note a link that leads out of the roots."""
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(root) for root in self._real_roots):
            self._links.append(f"{name} -> {target}")

    def _leads_back(self, link: str) -> bool:
        target = Path(os.path.realpath(link))
        return any(
            target.is_relative_to(root) or root.is_relative_to(target) for root in self._real_roots
        )

    def _is_new(self, folder: Folder) -> bool:
        status = os.stat(folder.path)
        identity = status.st_dev, status.st_ino
        if status.st_ino and identity in self._seen:  # 0 where the file system numbers none
            reason = "leads to a folder that is read under another name; remove the link"
            self._find(folder.prefix, "loop", reason, WARNING)
            return False
        self._seen.add(identity)
        return True

    def _count(self, folder: str) -> int:
        names = (name for _, _, files in os.walk(folder) for name in files)
        kinds = (self._classify(name) for name in names if not is_hidden(name))
        return sum(kind is not None and kind[0] == PICTURE for kind in kinds)

    def _find(self, name: str, kind: str, reason: str, severity: str = ERROR) -> None:
        self.findings.append(Finding(name.rstrip("/") or ".", kind, reason, severity))


def _why(error: OSError) -> str:
    return error.strerror or str(error)
