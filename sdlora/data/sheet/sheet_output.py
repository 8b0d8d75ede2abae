"""Output of the data sheet (terminal and ``dataset.json``), and the refusal of sets with errors."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdlora.data.pictures.picture import ERROR, Finding, Picture, quoted
from sdlora.data.sheet.data_sheet import Row, Sheet
from sdlora.data.sources.picture_source import DataError
from sdlora.runtime import files
from sdlora.runtime.progress import Progress

SCHEMA = 1
"""Version of ``dataset.json``; raised when a field changes its meaning."""

FILE_NAME = "dataset.json"

_SHOWN_FINDINGS = 10
_SHOWN_BUCKETS = 8
_SHOWN_WORDS = 10
_SHOWN_FACELESS = 5


def refuse(findings: Sequence[Finding]) -> None:
    """Raise an error if a finding is one.

    Raises:
        DataError: Naming all of them at once.
    """
    lines = sorted(f"\n  {finding}" for finding in findings if finding.severity == ERROR)
    if lines:
        raise DataError(
            f"{len(lines)} finding(s) prevent training:{''.join(lines)}\n"
            "Correct these files, or set data.on_error=skip to leave them out."
        )


def write_sheet(path: Path | str, sheet: Sheet) -> None:
    """Write the sheet as JSON, each picture on a line of its own.

    ``schema`` (:data:`SCHEMA`), ``content`` (hash of the set), ``counts`` (see ``Sheet.counts``),
    ``frequent_words`` (``[word, count]``), ``faces`` (``found`` in ``of`` pictures, or null if
    nothing looked for them), ``buckets`` (the fields of :class:`Bucket`), ``findings`` (``name``,
    ``kind``, ``reason``, ``severity``), ``notes``, ``held_out`` (names), and ``pictures``:
    ``name``, ``size``,
    ``bucket``, ``resized`` (all as ``[width, height]``), ``crop`` (``[left, top, right, bottom]``
    in pixels of the upright picture), ``cut`` (share of its area that is lost), ``enlarged``
    (factor), ``caption`` (of a sample), ``text`` and ``prefix`` (as written), ``repeats``,
    ``loss_weight``, ``has_mask``, ``mask`` (hash of the file that masks it, or ``""``), ``face``
    (``[left, top, width, height]`` or null; only if faces were looked for) and ``content`` (its
    own hash).
    """
    faces = list(sheet.faces)
    head = {
        "schema": SCHEMA,
        "content": sheet.content,
        "counts": sheet.counts,
        "frequent_words": sheet.words,
        "faces": {"found": len(faces) - faces.count(None), "of": len(faces)} if faces else None,
    }
    lists = {
        "buckets": [asdict(bucket) for bucket in sheet.buckets],
        "findings": [asdict(finding) for finding in sheet.findings],
        "notes": sheet.notes,
        "held_out": sheet.held_out,
        "pictures": _entries(sheet),
    }
    # json's own indentation is slow and gives every number a line: 2,000,000 for 100,000 pictures
    parts = [f'  "{key}": {_json(value)}' for key, value in head.items()]
    for key, values in lists.items():
        lines = ",".join(f"\n    {_json(value)}" for value in values)
        parts.append(f'  "{key}": [{lines}\n  ]' if lines else f'  "{key}": []')
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    # file names that are no Unicode hold lone surrogates, whose escape in Python is also JSON's
    files.write_bytes(path, text.encode("utf-8", "backslashreplace"))


def changed_pictures(path: Path, pictures: Sequence[Picture]) -> list[str]:
    """Differences between a sheet and the pictures now; empty if the sheet cannot be read.

    Args:
        path: A ``dataset.json``.
        pictures: The pictures now.

    Returns:
        One line each: ``changed: a.png``, ``changed caption: a.png``, ``gone: b.png``,
        ``new: c.png``, sorted.
    """
    try:
        stored = json.loads(path.read_text("utf-8"))["pictures"]
        before = {entry["name"]: entry for entry in stored}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    now = {picture.name: picture for picture in pictures}
    lines = [f"gone: {quoted(name)}" for name in before.keys() - now.keys()]
    lines += [f"new: {quoted(name)}" for name in now.keys() - before.keys()]
    for name in before.keys() & now.keys():
        lines += [f"{what}: {quoted(name)}" for what in _changes(before[name], now[name])]
    return sorted(lines)


def _changes(before: Mapping[str, Any], now: Picture) -> list[str]:
    """What of a picture differs from its entry; sheets of older versions have fewer fields."""
    fields: dict[str, dict[str, object]] = {
        "changed": {"content": now.content},
        "changed caption": {"text": now.text, "prefix": now.prefix},
        "changed mask": {"mask": now.mask_content},
        "changed repeats": {"repeats": now.repeats},
        "changed loss weight": {"loss_weight": now.loss_weight},
    }
    return [
        what
        for what, values in fields.items()
        if any(before.get(key, value) != value for key, value in values.items())
    ]


def print_sheet(sheet: Sheet, progress: Progress, with_errors: bool = True) -> None:
    """Print the sheet: the training pictures, then the findings.

    All errors are shown, and at most ten of each other kind.

    Args:
        sheet: The sheet.
        progress: Whose console it is.
        with_errors: Whether to print errors, which :func:`refuse` prints anyway.
    """
    for line in (*_summary(sheet), *_bucket_lines(sheet)):
        progress.print(line)
    for note in sheet.notes:
        progress.print(f"  note: {note}")
    for (severity, kind), findings in sheet.by_kind().items():
        if severity == ERROR and not with_errors:
            continue
        shown = findings if severity == ERROR else findings[:_SHOWN_FINDINGS]
        progress.print(f"{severity}: {kind.replace('_', ' ')} ({len(findings)})")
        for finding in shown:
            progress.print(f"  {finding}")
        if len(shown) < len(findings):
            progress.print(f"  and {len(findings) - len(shown)} more; all in {FILE_NAME}")


def _summary(sheet: Sheet) -> list[str]:
    counts = sheet.counts
    captions = _count(counts["captions"], "different caption")
    if counts["empty_captions"]:
        captions += f", {counts['empty_captions']} empty"
    epoch = f"{_count(counts['samples'], 'sample')} an epoch"
    batches = _count(counts["batches"], "batch", "batches")
    lines = [f"{_count(counts['pictures'], 'picture')}, {epoch} in {batches}; {captions}"]
    if counts["files_with_errors"] or counts["files_removed"]:
        wrong = f"{_count(counts['files_with_errors'], 'file')} with errors"
        lines.append(f"  {wrong}, {counts['files_removed']} removed by filters")
    if sheet.faces:
        found = len(sheet.faces) - list(sheet.faces).count(None)
        lines.append(f"  faces: found in {found} of {len(sheet.faces)}{_faceless(sheet)}")
    if sheet.words:
        words = ", ".join(f"{word} {count}" for word, count in sheet.words[:_SHOWN_WORDS])
        lines.append(f"  frequent words: {words}")
    return lines


def _faceless(sheet: Sheet) -> str:
    """The names of pictures without a face, as far as they fit a line."""
    pairs = zip(sheet.rows, sheet.faces, strict=True)
    names = [quoted(row.picture.name) for row, face in pairs if face is None]
    shown = ", ".join(names[:_SHOWN_FACELESS])
    more = f" and {len(names) - _SHOWN_FACELESS} more" if len(names) > _SHOWN_FACELESS else ""
    return f"; none in {shown}{more}" if names else ""


def _bucket_lines(sheet: Sheet) -> list[str]:
    lines = []
    for bucket in sheet.buckets[:_SHOWN_BUCKETS]:
        held = f"{_count(bucket.pictures, 'picture')}, {_count(bucket.batches, 'batch', 'batches')}"
        lost = f"the crop removes {bucket.mean_cut:.0%} on average, {bucket.max_cut:.0%} at most"
        enlarged = f", {bucket.enlarged} enlarged" * bool(bucket.enlarged)
        lines.append(f"  {_size(bucket.size)}: {held}{enlarged}; {lost}")
    if rest := sheet.buckets[_SHOWN_BUCKETS:]:
        pictures = _count(sum(bucket.pictures for bucket in rest), "picture")
        lines.append(f"  and {len(rest)} more sizes with {pictures}; all in {FILE_NAME}")
    if largest := max(sheet.rows, key=lambda row: row.cut, default=None):
        if largest.cut > 0:
            lines.append(f"  largest crop: {quoted(largest.picture.name)}, by {largest.cut:.0%}")
        most = max(sheet.rows, key=lambda row: row.enlarged)
        if most.enlarged > 1:
            lines.append(
                f"  largest enlargement: {quoted(most.picture.name)}, {most.enlarged:.2g} times"
            )
    return lines


def _entries(sheet: Sheet) -> list[dict[str, Any]]:
    entries = [_entry(row) for row in sheet.rows]
    for entry, face in zip(entries, sheet.faces, strict=bool(sheet.faces)):
        entry["face"] = face
    return entries


def _entry(row: Row) -> dict[str, Any]:
    picture = row.picture
    return {
        "name": picture.name,
        "size": picture.size,
        "bucket": row.bucket,
        "resized": row.resized,
        "crop": [round(edge, 2) for edge in row.crop],
        "cut": row.cut,
        "enlarged": row.enlarged,
        "caption": row.caption,
        "text": picture.text,
        "prefix": picture.prefix,
        "repeats": picture.repeats,
        "loss_weight": picture.loss_weight,
        "has_mask": picture.has_mask,
        "mask": picture.mask_content,
        "content": picture.content,
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
