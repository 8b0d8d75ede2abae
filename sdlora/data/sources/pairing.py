"""Pairing of pictures with captions and masks: by name, never by position."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sdlora.data.captions.caption_text import looks_like_caption
from sdlora.data.pictures.picture import WARNING, Finding, listed, quoted
from sdlora.data.pictures.picture_formats import PICTURE_SUFFIXES
from sdlora.data.sources.caption_table import (
    METADATA_NAMES,
    TABLE_SUFFIXES,
    Row,
    columns_of,
    is_table,
    read_metadata,
)
from sdlora.data.sources.companions import (
    MASK,
    MAYBE_TABLE,
    TABLE,
    Companions,
    sort_masks,
    unmasked,
)
from sdlora.data.sources.file_index import FileKey
from sdlora.data.sources.scan import PICTURE, Folder, Listing
from sdlora.data.sources.table_rows import Columns


class Endings:
    """The kind of a file by its ending, in any letter case.

    Args:
        captions: Endings of caption files; if a picture has several, the first counts.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        self.captions = tuple(dict.fromkeys(ending.casefold() for ending in captions))
        kinds = dict.fromkeys(PICTURE_SUFFIXES, PICTURE)
        kinds |= {ending: ending for ending in self.captions}
        self._by_last: dict[str, list[tuple[str, str]]] = {}
        for ending in sorted(kinds, key=len, reverse=True):  # a.tags.txt is no a.txt
            same_last = self._by_last.setdefault(ending[ending.rfind(".") :], [])
            same_last.append((ending, kinds[ending]))

    def classify(self, name: str) -> tuple[str, str] | None:
        """Kind and stem (NFC) of a file; ``None`` for other files."""
        folded = name.casefold()
        for ending, kind in self._by_last.get(folded[folded.rfind(".") :], ()):
            if folded.endswith(ending):
                return kind, unicodedata.normalize("NFC", name[: -len(ending)])
        if is_table(name):
            return TABLE, folded
        return (MAYBE_TABLE, folded) if folded.endswith(TABLE_SUFFIXES) else None


class Candidate(NamedTuple):
    """A picture with its caption and mask files, unread.

    Attributes:
        name: Its name in the run.
        folder: Folder of the picture.
        picture: Its file.
        caption: Its caption file, if it has one.
        mask: Its mask file, if it has one.
        text: Its caption, if no file holds it.
        is_sound: Whether it has no error so far.
    """

    name: str
    folder: Folder
    picture: FileKey
    caption: FileKey | None
    mask: FileKey | None
    text: str | None
    is_sound: bool


class Pairing:
    """Pictures with captions and masks, of all folders.

    Args:
        endings: Kinds of files.
        text_of: (folder, stem) -> caption of a picture without one of its own, or ``None``.
        is_read: (folder, path) -> whether files at a path below the folder are read.

    Attributes:
        findings: Files that cannot be paired.
    """

    def __init__(
        self,
        endings: Endings,
        text_of: Callable[[Folder, str], str | None],
        is_read: Callable[[Folder, str], bool],
    ) -> None:
        self.findings: list[Finding] = []
        self._read_columns: list[str] = []
        self._unused_captions: list[str] = []
        self._unused_rows: list[str] = []
        self._endings = endings
        self._text_of = text_of
        self._is_read = is_read
        self._rows: dict[str, _Claim] = {}

    def candidates(self, listings: Sequence[Listing]) -> Iterator[Candidate]:
        """The pictures of all folders, given parents before children."""
        for listing in listings:
            sort_masks(listing)
        self.findings += Companions(listings, self._endings.captions).findings
        for listing in listings:
            self._read_tables(listing)
        for listing in listings:
            self._find_orphans(listing)
            for stem in sorted(listing.files[PICTURE]):
                yield from self._of_stem(stem, listing)

    def unclaimed(self) -> list[Finding]:
        """Findings of table rows without a picture, after all folders."""
        return [
            Finding(
                table,
                "missing_file",
                f"line {row.line}: {quoted(name)} is not there; add it or remove the line",
            )
            for name, (table, row) in self._rows.items()
        ]

    def notes(self) -> list[str]:
        """Remarks on caption files and rows that are not read."""
        notes = [f"table of captions {columns}" for columns in self._read_columns]
        if unused := self._unused_captions:
            used = ", ".join(self._endings.captions)
            notes.append(
                f"{len(unused)} second caption files are not read, since the first of {used} "
                f"counts: {listed(unused)}"
            )
        if unused := self._unused_rows:
            notes.append(
                f"{len(unused)} rows of tables are for pictures in folders that are not read: "
                f"{listed(unused)}"
            )
        return notes

    def _of_stem(self, stem: str, listing: Listing) -> Iterator[Candidate]:
        pictures = listing.all_of(PICTURE, stem)
        captions = self._captions(stem, listing)
        masks = listing.all_of(MASK, stem)
        is_single = stem not in listing.blocked
        for files, what in ((pictures, "pictures"), (captions, "captions"), (masks, "masks")):
            if len(files) > 1:
                is_single = False
                reason = f"{len(files)} {what} of one name: {_shown(files)}; keep one of them"
                self._find(listing.folder.name_of(files[0]), "doubles", reason)
        # of doubles none is used, but all that is wrong with any is to be said, and once
        for picture in pictures:
            name = listing.folder.name(picture.name)
            text, is_sound = self._text(name, stem, bool(captions), listing)
            is_first = picture is pictures[0]
            yield Candidate(
                name,
                listing.folder,
                picture,
                captions[0] if len(captions) == 1 and is_first else None,
                masks[0] if len(masks) == 1 and is_first else None,
                text,
                is_sound and is_single,
            )

    def _captions(self, stem: str, listing: Listing) -> list[FileKey]:
        """The caption files of the first ending that the picture has."""
        found: list[FileKey] = []
        for ending in self._endings.captions:
            if stem in listing.files[ending]:
                files = listing.all_of(ending, stem)
                if found:
                    self._unused_captions += map(listing.folder.name_of, files)
                found = found or files
        return found

    def _text(
        self, name: str, stem: str, has_file: bool, listing: Listing
    ) -> tuple[str | None, bool]:
        """The caption from table or default, and whether the picture has any caption."""
        claim = self._rows.pop(name, None) or self._rows.pop(listing.folder.name(stem), None)
        if claim is not None:
            table, row = claim
            if has_file:
                reason = f"has a caption file and line {row.line} of {quoted(table)}; keep one"
                self._find(name, "two_captions", reason)
            return row.text, row.text is not None and not has_file
        if has_file:
            return None, True
        if (base := unmasked(stem)) is not None:
            reason = (
                f"looks like the mask of a picture {quoted(base)}, which is not there; add the "
                "picture, or rename this one to train on it"
            )
            self._find(name, "orphan_mask", reason)
            return None, False
        text = self._text_of(listing.folder, stem)
        if text is None and stem not in listing.blocked:
            endings = self._endings.captions
            file = f" file {quoted(stem + endings[0])}" if endings else ""
            names = "data.captions.from_name=true, or " * looks_like_caption(stem)
            reason = f"no caption{file}; write it, or set {names}data.captions.default"
            self._find(name, "no_caption", reason)
        return text, text is not None

    def _find_orphans(self, listing: Listing) -> None:
        kinds = {MASK: "mask"} | dict.fromkeys(self._endings.captions, "caption")
        known = listing.files[PICTURE].keys() | listing.blocked
        for kind, what in kinds.items():
            for stem in listing.files[kind].keys() - known:
                for file in listing.all_of(kind, stem):
                    reason = f"{what} without a picture; add the picture or remove it"
                    base = unmasked(stem) if what == "caption" else None
                    if base is not None and base in listing.files[MASK]:
                        reason = f"caption of the mask of {quoted(base)}; remove it"
                    self._find(listing.folder.name_of(file), f"orphan_{what}", reason)

    def _read_tables(self, listing: Listing) -> None:
        names = dict.fromkeys((*METADATA_NAMES, *sorted(listing.files[TABLE])))
        tables: dict[FileKey, Columns | None] = {
            file: None for name in names for file in listing.all_of(TABLE, name)
        }
        tables |= self._tables_by_columns(listing)
        first = next(iter(tables), None)
        for file, columns in tables.items():
            table = listing.folder.name(file.name)
            if file is not first and first is not None:
                reason = f"a table of captions beside {first.name}; keep one of them"
                self._find(table, "doubles", reason)
                continue
            try:
                rows, faults = read_metadata(Path(file.path), columns)
            except OSError as error:
                reason = f"{error.strerror or error}; check the file"
                self._find(table, "unreadable", reason)
                continue
            self.findings += [Finding(table, *fault) for fault in faults]
            self._add_rows(rows, table, listing.folder)

    def _tables_by_columns(self, listing: Listing) -> dict[FileKey, Columns]:
        """Tables of other names, which have a column of file names and one of captions."""
        tables = {}
        for name in sorted(listing.files[MAYBE_TABLE]):
            for file in listing.all_of(MAYBE_TABLE, name):
                shown = listing.folder.name(file.name)
                try:
                    columns = columns_of(Path(file.path))
                except OSError as error:
                    self._find(shown, "unreadable", f"{error.strerror or error}; check the file")
                    continue
                if columns is not None:
                    tables[file] = columns
                    self._read_columns.append(f"{shown}: {columns.file_name}, {columns.text}")
                    continue
                reason = (
                    "is not read: not one column of file names (file_name) and one of captions "
                    "(text); rename its columns if it holds captions"
                )
                self.findings.append(Finding(shown, "other_file", reason, WARNING))
        return tables

    def _add_rows(self, rows: dict[str, Row], table: str, folder: Folder) -> None:
        for path, row in rows.items():
            if not self._is_read(folder, path):
                self._unused_rows.append(folder.prefix + path)
                continue
            name = folder.prefix + path
            other, known = self._rows.setdefault(name, _Claim(table, row))
            if known is not row:
                reason = (
                    f"has line {known.line} of {quoted(other)} and line {row.line} of "
                    f"{quoted(table)}; keep one of them"
                )
                self._find(name, "two_captions", reason)
                self._rows[name] = _Claim(other, known._replace(text=None))

    def _find(self, name: str, kind: str, reason: str) -> None:
        self.findings.append(Finding(name, kind, reason))


class _Claim(NamedTuple):
    table: str
    row: Row


def _shown(files: Sequence[FileKey]) -> str:
    """Names for a message; escaped if they look the same."""
    names = [file.name for file in files]
    looks = {unicodedata.normalize("NFC", name) for name in names}
    return ", ".join(quoted(name) if len(looks) == len(names) else ascii(name) for name in names)
