"""Captions in a table beside the pictures: ``metadata.jsonl``, ``metadata.csv`` and others."""

import csv
import io
import json
import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from sdlora.data.captions.caption_text import CaptionError, check_caption_text
from sdlora.data.pictures.picture import ERROR, WARNING, quoted

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
"""File names of Hugging Face's imagefolder; the first is read if both exist."""

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Endings of files that are read as tables if they have columns of file names and of captions."""

FILE_NAME, TEXT = "file_name", "text"
_FILE_NAMES = (FILE_NAME, "filename", "file", "image", "image_path", "img", "path")
_TEXTS = (TEXT, "caption", "prompt", "description")
"""Customary names of the two columns; the first is the format's own."""

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""What may stand between the cells of a table; spreadsheets write semicolons in much of Europe."""

_KOHYA = re.compile(r"meta(?:data|_\w+)\.json")

_ABSOLUTE = re.compile(r"/|[A-Za-z]:/")


class Row(NamedTuple):
    """The caption of one picture."""

    line: int  # of the table, from 1
    text: str | None  # as ``read_caption_text`` returns it; None if it has a fault


class RowFault(NamedTuple):
    """A fault of a table or of one of its rows."""

    kind: str
    reason: str
    severity: str = ERROR


class _Cells(NamedTuple):
    line: int
    file_name: object
    text: object


class Columns(NamedTuple):
    """The two columns of a table."""

    file_name: str = FILE_NAME
    text: str = TEXT


def is_table(name: str) -> bool:
    """Whether a file is a table of captions by its name, in any letter case."""
    folded = name.casefold()
    return folded in METADATA_NAMES or _KOHYA.fullmatch(folded) is not None


def columns_of(path: Path) -> Columns | None:
    """The columns of file names and captions of a table with any name.

    Returns:
        ``None`` if it cannot be read, or does not have one customary column of each.

    Raises:
        OSError: If it cannot be read at all.
    """
    try:
        text = _decoded(path.read_bytes())
    except _TableError:
        return None
    if path.suffix.casefold() == ".jsonl":
        names = _first_keys(text)
    else:
        names = _header(text, _separator(path, text))
    return _customary(names)


def read_metadata(
    path: Path, columns: Columns | None = None
) -> tuple[dict[str, Row], list[RowFault]]:
    """Read a table of captions, one row a picture.

    Args:
        path: UTF-8, with or without byte order mark. ``.csv``: with a header row, separated by
            commas, semicolons or tabs; ``.jsonl``: one JSON object a line; ``.json``: kohya's,
            file -> ``{"caption": ..., "tags": ...}``. Other columns are not read.
        columns: Its columns; by default ``file_name`` and ``text``, else what
            :func:`columns_of` finds.

    Returns:
        Rows by file name (relative to the table's folder, ``/`` between folders, NFC), and every
        fault with its line.

    Raises:
        OSError: If it cannot be read at all.

    Source:
        https://huggingface.co/docs/datasets/image_load#imagefolder, and for ``.json`` kohya-ss's
        sd-scripts, ``library/train_util.py``, ``FineTuningDataset``.
    """
    rows: dict[str, Row] = {}
    faults: list[RowFault] = []
    try:
        text = _decoded(path.read_bytes())
    except _TableError as error:
        return rows, [RowFault("bad_table", str(error))]
    columns = columns or _own_columns(path)
    suffix = path.suffix.casefold()
    if suffix == ".json":
        cells = _kohya_cells(text, path.parent)
    elif suffix == ".jsonl":
        cells = _jsonl_cells(text, columns)
    else:
        cells = _csv_cells(text, columns, _separator(path, text))
    for cell in cells:
        if isinstance(cell, RowFault):
            faults.append(cell)
        else:
            _add(cell, rows, faults)
    return rows, faults


def _own_columns(path: Path) -> Columns:
    """The format's own columns, unless only others are there."""
    return columns_of(path) or Columns()


def _separator(path: Path, text: str) -> str:
    """The separator of the ending, or that by which the first line has the two columns."""
    usual = "\t" if path.suffix.casefold() == ".tsv" else ","
    headers = {each: _header(text, each) for each in (usual, *SEPARATORS)}
    return next(
        (
            each
            for each, names in headers.items()
            if _customary(names) or {FILE_NAME, TEXT} <= set(names)
        ),
        usual,
    )


def _header(text: str, separator: str) -> list[str]:
    _, header = next(_csv_rows(text, separator), (0, []))
    return [] if isinstance(header, RowFault) else [name.strip() for name in header]


def _customary(names: Collection[str]) -> Columns | None:
    """The one column of file names and the one of captions, if they have customary names."""
    files, texts = ([name for name in known if name in names] for known in (_FILE_NAMES, _TEXTS))
    return Columns(files[0], texts[0]) if len(files) == len(texts) == 1 else None


class _TableError(ValueError):
    """A table that cannot be read; the message gives reason and remedy."""


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _TableError("is UTF-16 (byte order mark at byte 0); save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise _TableError(
            f"line {line}: is not UTF-8: byte 0x{byte:02x} at offset {error.start}; "
            "save it as UTF-8"
        ) from error


def _first_keys(text: str) -> list[str]:
    """The keys of the first object of JSON lines."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        return []
    return list(row) if isinstance(row, dict) else []


def _kohya_cells(text: str, folder: Path) -> Iterator[_Cells | RowFault]:
    """Rows of kohya's table; a row is counted as a line."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", str(error))
        yield RowFault("bad_table", f"is not JSON ({reason}); correct it, or remove it")
        return
    if not isinstance(table, dict) or not all(isinstance(row, dict) for row in table.values()):
        yield RowFault("bad_table", 'is not kohya\'s {"FILE": {"caption": "..."}}; remove it')
        return
    for number, (name, row) in enumerate(table.items(), start=1):
        parts = [row.get("caption"), row.get("tags")]
        given = [part for part in parts if isinstance(part, str) and part.strip()]
        yield _Cells(number, _in_folder(name, folder), ", ".join(given) if given else None)


def _in_folder(name: str, folder: Path) -> str:
    """A whole path of another machine or of this one, as one below the table's folder."""
    name = name.replace("\\", "/")
    if not _ABSOLUTE.match(name):
        return name
    here = f"{folder.resolve().as_posix()}/"
    return name.removeprefix(here) if name.startswith(here) else posixpath.basename(name)


def _jsonl_cells(text: str, columns: Columns) -> Iterator[_Cells | RowFault]:
    for line, written in enumerate(text.split("\n"), start=1):  # a string may hold U+2028
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            yield RowFault("bad_row", f"line {line}: is not JSON ({reason}); correct the line")
            continue
        missing = [key for key in columns if not isinstance(row, dict) or key not in row]
        if missing:
            yield RowFault("bad_row", f"line {line}: has no {' and no '.join(missing)}; add it")
        else:
            yield _Cells(line, row[columns.file_name], row[columns.text])


def _csv_cells(text: str, columns: Columns, separator: str) -> Iterator[_Cells | RowFault]:
    rows = _csv_rows(text, separator)
    _, header = next(rows, (0, []))
    if isinstance(header, RowFault):
        yield header
        return
    header = [name.strip() for name in header]
    missing = [name for name in columns if name not in header]
    if missing:
        has = ", ".join(quoted(name) for name in header) or "nothing"
        yield RowFault(
            "bad_table",
            f"has no column {' and no column '.join(missing)} (its first line: {has}); begin it "
            f"with the line {FILE_NAME},{TEXT}",
        )
        return
    name_column, text_column = (header.index(name) for name in columns)
    for line, row in rows:
        if isinstance(row, RowFault):
            yield row
        elif len(row) != len(header):
            yield RowFault(
                "bad_row",
                f"line {line}: has {len(row)} values for {len(header)} columns; put a text with "
                f"{SEPARATORS[separator]} in double quotes",
            )
        else:
            yield _Cells(line, row[name_column], row[text_column])


def _csv_rows(text: str, separator: str) -> Iterator[tuple[int, list[str] | RowFault]]:
    """Rows that are not blank, each with its first line number."""
    # strict: without it an open quote swallows all rows behind it
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, RowFault("bad_row", f"line {line}: {error}; correct its quotes")
        else:
            if row:
                yield line, row


def _add(cells: _Cells, rows: dict[str, Row], faults: list[RowFault]) -> None:
    def refuse(kind: str, reason: str, severity: str = ERROR) -> None:
        faults.append(RowFault(kind, f"line {cells.line}: {reason}", severity))

    name = cells.file_name
    if not isinstance(name, str) or not name.strip():
        return refuse("bad_row", f"{FILE_NAME} names no file; write the picture's name")
    name = name.replace("\\", "/")
    if _ABSOLUTE.match(name) or ".." in name.split("/"):
        return refuse(
            "outside",
            f"{quoted(name)} leads out of the table's folder; name a picture in it or below",
        )
    name = unicodedata.normalize("NFC", posixpath.normpath(name))
    text = None
    if not isinstance(cells.text, str):
        refuse("bad_row", f"{TEXT} of {quoted(name)} is no text; write what the picture shows")
    else:
        try:
            text = check_caption_text(cells.text)
        except CaptionError as error:
            refuse("bad_caption", f"{TEXT} of {quoted(name)} {error}")
    known = rows.setdefault(name, row := Row(cells.line, text))
    if known is row:
        return None
    if known.text is not None and known.text == text:
        return refuse(
            "duplicate_row",
            f"{quoted(name)} has the same text in line {known.line}; remove one of the two",
            WARNING,
        )
    rows[name] = Row(known.line, None)
    return refuse(
        "duplicate_row",
        f"{quoted(name)} has another text in line {known.line}; keep one of the two",
    )
