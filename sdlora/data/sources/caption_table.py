"""Captions in a table beside the pictures: ``metadata.jsonl`` or ``metadata.csv``."""

import csv
import io
import json
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sdlora.data.captions.caption_text import CaptionError, check_caption_text
from sdlora.data.pictures.picture import ERROR, WARNING, quoted

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
"""File names of Hugging Face's imagefolder; the first is read if both exist."""

FILE_NAME, TEXT = "file_name", "text"

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


def read_metadata(path: Path) -> tuple[dict[str, Row], list[RowFault]]:
    """Read a table of captions, one row a picture, in columns ``file_name`` and ``text``.

    Args:
        path: UTF-8, with or without byte order mark. ``.csv``: with a header row, separated by
            commas; ``.jsonl``: one JSON object a line. Other columns are not read.

    Returns:
        Rows by file name (relative to the table's folder, ``/`` between folders, NFC), and every
        fault with its line.

    Raises:
        OSError: If it cannot be read at all.

    Source:
        https://huggingface.co/docs/datasets/image_load#imagefolder
    """
    rows: dict[str, Row] = {}
    faults: list[RowFault] = []
    try:
        text = _decoded(path.read_bytes())
    except _TableError as error:
        return rows, [RowFault("bad_table", str(error))]
    cells = _csv_cells(text) if path.suffix.casefold() == ".csv" else _jsonl_cells(text)
    for cell in cells:
        if isinstance(cell, RowFault):
            faults.append(cell)
        else:
            _add(cell, rows, faults)
    return rows, faults


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


def _jsonl_cells(text: str) -> Iterator[_Cells | RowFault]:
    for line, written in enumerate(text.split("\n"), start=1):  # a string may hold U+2028
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            yield RowFault("bad_row", f"line {line}: is not JSON ({reason}); correct the line")
            continue
        missing = [key for key in (FILE_NAME, TEXT) if not isinstance(row, dict) or key not in row]
        if missing:
            yield RowFault("bad_row", f"line {line}: has no {' and no '.join(missing)}; add it")
        else:
            yield _Cells(line, row[FILE_NAME], row[TEXT])


def _csv_cells(text: str) -> Iterator[_Cells | RowFault]:
    rows = _csv_rows(text)
    _, header = next(rows, (0, []))
    if isinstance(header, RowFault):
        yield header
        return
    header = [name.strip() for name in header]
    missing = [name for name in (FILE_NAME, TEXT) if name not in header]
    if missing:
        has = ", ".join(quoted(name) for name in header) or "nothing"
        yield RowFault(
            "bad_table",
            f"has no column {' and no column '.join(missing)} (its first line: {has}); begin it "
            f"with the line {FILE_NAME},{TEXT}",
        )
        return
    name_column, text_column = header.index(FILE_NAME), header.index(TEXT)
    for line, row in rows:
        if isinstance(row, RowFault):
            yield row
        elif len(row) != len(header):
            yield RowFault(
                "bad_row",
                f"line {line}: has {len(row)} values for {len(header)} columns; put a text with "
                "commas in double quotes",
            )
        else:
            yield _Cells(line, row[name_column], row[text_column])


def _csv_rows(text: str) -> Iterator[tuple[int, list[str] | RowFault]]:
    """Rows that are not blank, each with its first line number."""
    # strict: without it an open quote swallows all rows behind it
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
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
