"""Numbers that a person looks at: the score table, metrics.jsonl, report.json."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table

from sdlora.config.score_kinds import HIGHER, IDENTITY_SCORES, KINDS, kind
from sdlora.evaluation.scores import Scores
from sdlora.runtime import files

MOST_COLUMNS = 4
"""So many models fit side by side into 80 columns."""

REPORT_VERSION = 2
"""Of ``report.json``; 1 had the scores side by side with what explains them."""


def gap_closed(base: float | None, now: float | None, floor: float | None) -> float | None:
    """Share of the way from the base's face distance to the real pictures' that was made.

    Args:
        base: Face distance of the base model's pictures.
        now: Face distance with the adapter.
        floor: Face distance of real pictures of the person: what cannot be beaten honestly.

    Returns:
        ``(base - now) / (base - floor)``: 0 at the base, 1 at the floor, negative when worse than
        the base; None if a number is missing or the base is not above the floor.
    """
    if base is None or now is None or floor is None or base <= floor:
        return None
    return (base - now) / (base - floor)


def score_table(
    rows: Mapping[str, Scores], *, floor: Scores | None = None, title: str = "Scores"
) -> Group:
    """Tables of scores for the terminal; the first of ``rows`` is what others are compared with.

    A score is a line and its columns are the models, so that it fits a terminal however much is
    measured; more than :data:`MOST_COLUMNS` models stand one a line, in as many tables as the
    scores need. ``±`` is half the width of the 95 % interval of a mean; arrows say which direction
    is better.

    Args:
        rows: Name -> scores, e.g. ``{"base": ..., "LoRA": ...}``, the base first.
        floor: Scores of real pictures of the person; adds them and the gap closed.
        title: Above the tables.

    Returns:
        What rich prints; below the tables, why a score is missing.

    Raises:
        ValueError: If there is nothing to show.
    """
    if not rows:
        raise ValueError("rows: no scores to show.")
    shown = dict(rows) if floor is None else {**rows, "real pictures": floor}
    lines = score_lines(rows, shown, floor)
    if len(shown) <= MOST_COLUMNS:
        tables = [_table(lines, list(shown), title)]
    else:
        headers = list(lines)
        starts = range(0, len(headers), MOST_COLUMNS)
        parts = [headers[start : start + MOST_COLUMNS] for start in starts]
        tables = [_table(_turned(lines, part, list(shown)), part, title) for part in parts]
    return Group(*tables, *_reasons(shown))


def _table(lines: Mapping[str, Sequence[str]], columns: Sequence[str], title: str) -> Table:
    table = Table(title=title, box=SIMPLE, pad_edge=False)
    table.padding = (0, 1, 0, 0)  # all numbers whole in 80 columns
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for header, cells in lines.items():
        table.add_row(header, *cells)
    return table


def score_lines(
    rows: Mapping[str, Scores], shown: Mapping[str, Scores], floor: Scores | None
) -> dict[str, list[str]]:
    """Header of a score -> its cells, one a model.

    Args:
        rows: Name -> scores, the base first.
        shown: What has a cell: ``rows``, and maybe the real pictures.
        floor: Scores of the real pictures, for the gap closed.
    """
    base = next(iter(rows.values()))
    lines = {"pictures": [str(scores.num_pictures) for scores in shown.values()]}
    for name in measured_names(shown.values()):
        look = kind(name)
        header = f"{look.title} {look.arrow}".strip()
        lines[header] = [_cell(name, scores) for scores in shown.values()]
    if floor is not None:
        shares = [gap_closed_by(scores, base, floor) for scores in shown.values()]
        if any(share is not None for share in shares):
            lines["gap closed " + HIGHER] = ["-" if s is None else f"{s:.0%}" for s in shares]
    return lines


def measured_names(scores: Iterable[Scores]) -> list[str]:
    """Names that some of the scores have a number of, in the order of tables."""
    found = {name for each in scores for name, value in each.values.items() if value is not None}
    ranks = {name: rank for rank, name in enumerate(KINDS)}
    return sorted(found, key=lambda name: ranks.get(name, len(ranks)))


def _turned(
    lines: Mapping[str, Sequence[str]], headers: Sequence[str], models: Sequence[str]
) -> dict[str, list[str]]:
    return {model: [lines[name][i] for name in headers] for i, model in enumerate(models)}


def _reasons(shown: Mapping[str, Scores]) -> list[str]:
    """Why scores are missing; a reason that all models share stands once."""
    rows: dict[tuple[str, str], list[str]] = {}
    for row, scores in shown.items():
        for name, reason in scores.reasons.items():
            rows.setdefault((name, reason), []).append(row)
    return [
        f"{'' if len(names) == len(shown) else ', '.join(names) + ': '}"
        f"no {kind(name).title} ({reason})"
        for (name, reason), names in rows.items()
    ]


def _cell(name: str, scores: Scores) -> str:
    """Number and half its interval."""
    value, digits = scores.value(name), kind(name).digits
    if value is None:
        return "none" if name in scores.reasons else "-"
    low, high = scores.intervals.get(name, (value, value))
    half = f" ± {(high - low) / 2:.{digits}f}" if low < high else ""
    return f"{value:.{digits}f}{half}"


def append_metrics(
    path: Path | str,
    step: int,
    values: Mapping[str, float | str | None],
    reasons: Mapping[str, str] | None = None,
) -> None:
    """Add one JSON line to ``metrics.jsonl`` and sync it to the disk.

    A last line that a killed process left cut is removed first.

    Args:
        path: The file; made if missing.
        step: The optimizer step the numbers belong to.
        values: Name -> number or text; NaN, infinite and None become null.
        reasons: Name -> why it is None; NaN and infinity give their own.

    Raises:
        ValueError: If a name is ``step`` or ``reasons``, which the line uses itself.
    """
    if taken := {"step", "reasons"} & set(values):
        raise ValueError(f"metric name {taken.pop()!r} is taken by the line itself; rename it.")
    line: dict[str, Any] = {"step": step}
    why = {name: reason for name, reason in (reasons or {}).items() if values.get(name) is None}
    for name, value in values.items():
        line[name] = value if isinstance(value, str) else _finite(value)
        if value is not None and line[name] is None:
            why[name] = f"the value is {float(value)}"
    if why:
        line["reasons"] = why
    data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _drop_cut_line(file)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _drop_cut_line(file: Any) -> None:
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    file.truncate(whole)
    file.seek(0, os.SEEK_END)


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; a last line that a killed process left cut is passed over.

    Args:
        path: The file; a missing one has no lines.

    Returns:
        One mapping a line, with ``step``.

    Raises:
        ValueError: If another line is no JSON object; it gives the line's number.
    """
    path = Path(path)
    if not path.exists():
        return []
    *whole, _cut = path.read_bytes().split(b"\n")
    lines = []
    for number, raw in enumerate(whole, start=1):
        try:
            line = json.loads(raw)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error}); remove it.") from error
        if not isinstance(line, dict):
            raise ValueError(f"{path}, line {number}: no JSON object; remove it.")
        lines.append(line)
    return lines


def read_steps(run: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The lines of a run's metrics that have a step; none, and a note, if the file is damaged."""
    try:
        lines = read_metrics(run / "metrics.jsonl")
    except (OSError, ValueError) as error:
        notes.append(f"metrics.jsonl cannot be read ({error}).")
        return []
    return [line for line in lines if isinstance(line.get("step"), int)]


def forget_metrics_after(path: Path | str, step: int) -> None:
    """Drop the lines of steps that a resumed run will make again (those above ``step``)."""
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in kept)
    if Path(path).exists():
        files.write_text(path, text)


def gap_closed_by(scores: Scores, base: Scores, floor: Scores) -> float | None:
    """:func:`gap_closed` of some scores; None for the base and the real pictures themselves."""
    if scores is base or scores is floor:
        return None
    name = IDENTITY_SCORES[0]
    return gap_closed(base.value(name), scores.value(name), floor.value(name))


def write_report_json(
    path: Path | str,
    scores: Mapping[str, Scores],
    *,
    settings: Mapping[str, Any],
    floor: Scores | None = None,
    pictures: Mapping[str, str] | None = None,
) -> None:
    """Write everything that was measured, whole or not at all (docs/evaluation.md has the schema).

    Args:
        path: The file.
        scores: Name -> scores, the base first.
        settings: What the pictures were made with; plain JSON values and paths.
        floor: Scores of real pictures of the person.
        pictures: Name -> folder with its pictures, relative to the file.
    """
    base = next(iter(scores.values()), None)
    closed = {
        name: None if base is None or floor is None else gap_closed_by(row, base, floor)
        for name, row in scores.items()
    }
    files.write_json(
        path,
        {
            "version": REPORT_VERSION,
            "settings": _plain(settings),
            "scores": {name: _plain(row) for name, row in scores.items()},
            "real_pictures": None if floor is None else _plain(floor),
            "gap_closed": closed,
            "pictures": dict(pictures or {}),
        },
    )


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    return _finite(value) if isinstance(value, float) else value


def _finite(value: Any) -> Any:
    if value is None:
        return None
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None
