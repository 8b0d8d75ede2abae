"""Captions in a table beside the pictures: ``metadata.jsonl``, ``metadata.csv`` and others."""

import json
import posixpath
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from sdlora.data.captions.caption_text import CaptionError, check_caption_text
from sdlora.data.pictures.picture import ERROR, WARNING, quoted
from sdlora.data.sources.table_rows import (
    ABSOLUTE,
    FILE_NAME,
    SEPARATORS,
    TEXT,
    Cells,
    Columns,
    RowFault,
    TableError,
    csv_cells,
    csv_rows,
    decoded,
    jsonl_cells,
    kohya_cells,
)

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
"""File names of Hugging Face's imagefolder; the first is read if both exist."""

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Endings of files that are read as tables if they have columns of file names and of captions."""

_FILE_NAMES = (FILE_NAME, "filename", "file", "image", "image_path", "img", "path")
_TEXTS = (TEXT, "caption", "prompt", "description")
"""Customary names of the two columns; the first is the format's own."""

_KOHYA = re.compile(r"meta(?:data|_\w+)\.json")


class Row(NamedTuple):
    """The caption of one picture."""

    line: int  # of the table, from 1
    text: str | None  # as ``read_caption_text`` returns it; None if it has a fault


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
        text = decoded(path.read_bytes())
    except TableError:
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
        text = decoded(path.read_bytes())
    except TableError as error:
        return rows, [RowFault("bad_table", str(error))]
    columns = columns or _own_columns(path)
    suffix = path.suffix.casefold()
    if suffix == ".json":
        cells = kohya_cells(text, path.parent)
    elif suffix == ".jsonl":
        cells = jsonl_cells(text, columns)
    else:
        cells = csv_cells(text, columns, _separator(path, text))
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
    _, header = next(csv_rows(text, separator), (0, []))
    return [] if isinstance(header, RowFault) else [name.strip() for name in header]


def _customary(names: Collection[str]) -> Columns | None:
    """The one column of file names and the one of captions, if they have customary names."""
    files, texts = ([name for name in known if name in names] for known in (_FILE_NAMES, _TEXTS))
    return Columns(files[0], texts[0]) if len(files) == len(texts) == 1 else None


def _first_keys(text: str) -> list[str]:
    """The keys of the first object of JSON lines."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        return []
    return list(row) if isinstance(row, dict) else []


def _add(cells: Cells, rows: dict[str, Row], faults: list[RowFault]) -> None:
    def refuse(kind: str, reason: str, severity: str = ERROR) -> None:
        faults.append(RowFault(kind, f"line {cells.line}: {reason}", severity))

    name = cells.file_name
    if not isinstance(name, str) or not name.strip():
        return refuse("bad_row", f"{FILE_NAME} names no file; write the picture's name")
    name = name.replace("\\", "/")
    if ABSOLUTE.match(name) or ".." in name.split("/"):
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
