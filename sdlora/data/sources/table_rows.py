"""Rows of a table of captions as its format gives them: JSON lines, CSV, kohya's JSON."""

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sdlora.data.pictures.picture import ERROR, quoted

FILE_NAME, TEXT = "file_name", "text"

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""What may stand between the cells of a table; spreadsheets write semicolons in much of Europe."""

ABSOLUTE = re.compile(r"/|[A-Za-z]:/")


class RowFault(NamedTuple):
    """A fault of a table or of one of its rows."""

    kind: str
    reason: str
    severity: str = ERROR


class Cells(NamedTuple):
    """What a row says of a picture, unchecked."""

    line: int
    file_name: object
    text: object


class Columns(NamedTuple):
    """The two columns of a table."""

    file_name: str = FILE_NAME
    text: str = TEXT


class TableError(ValueError):
    """A table that cannot be read; the message gives reason and remedy."""


def decoded(data: bytes) -> str:
    """The text of a table.

    Raises:
        TableError: If it is not UTF-8.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TableError("is UTF-16 (byte order mark at byte 0); save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise TableError(
            f"line {line}: is not UTF-8: byte 0x{byte:02x} at offset {error.start}; "
            "save it as UTF-8"
        ) from error


def kohya_cells(text: str, folder: Path) -> Iterator[Cells | RowFault]:
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
        yield Cells(number, _in_folder(name, folder), ", ".join(given) if given else None)


def _in_folder(name: str, folder: Path) -> str:
    """A whole path of another machine or of this one, as one below the table's folder."""
    name = name.replace("\\", "/")
    if not ABSOLUTE.match(name):
        return name
    here = f"{folder.resolve().as_posix()}/"
    return name.removeprefix(here) if name.startswith(here) else posixpath.basename(name)


def jsonl_cells(text: str, columns: Columns) -> Iterator[Cells | RowFault]:
    """Rows of JSON lines."""
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
            yield Cells(line, row[columns.file_name], row[columns.text])


def csv_cells(text: str, columns: Columns, separator: str) -> Iterator[Cells | RowFault]:
    """Rows of a table with a header."""
    rows = csv_rows(text, separator)
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
            yield Cells(line, row[name_column], row[text_column])


def csv_rows(text: str, separator: str) -> Iterator[tuple[int, list[str] | RowFault]]:
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
