"""``results.csv`` of a sweep: the base, then one row for each cell."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdlora.evaluation.comparison import measured_names
from sdlora.evaluation.scores import Scores
from sdlora.runtime import files
from sdlora.sweep.cells import Cell, Sweep, value_text
from sdlora.sweep.choice import Candidate, beats_base, rule_of

FILE_NAME = "results.csv"

_BEFORE = ("state", "reason", "best_step", "beats_base")
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
_AFTER = ("trainable_parameters", "file_bytes", "seconds", "peak_memory_mib", "folder")


def write_results(sweep: Sweep) -> Path:
    """Write the table into the sweep's folder, whole or not at all.

    Columns: ``cell``, the swept keys, ``state``, ``reason``, ``best_step``, ``beats_base`` (whether
    the score that selects is better than the base's at the step to take), each score of the last
    step (``final/NAME``, and ``_low`` and ``_high`` where some cell has its 95 % interval), each of
    the best one (``best/NAME``), ``trainable_parameters``, ``file_bytes``, ``seconds``,
    ``peak_memory_mib``, ``folder``. What is not known is empty. The base's scores stand under
    ``final/``.
    """
    finals = [cell.final for cell in sweep.cells] + [sweep.base]
    bests = [cell.best.scores if cell.best else None for cell in sweep.cells]
    columns = {"final": _score_columns(finals), "best": _score_columns(bests)}
    header = ["cell", *sweep.swept, *_BEFORE]
    header += [f"{group}/{name}{end}" for group, found in columns.items() for name, end in found]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_harmless(name) for name in (*header, *_AFTER)])
    if sweep.base is not None:
        row: list[Any] = ["base", *("" for _ in sweep.swept), *("" for _ in _BEFORE)]
        row += _values(sweep.base, columns["final"]) + _values(None, columns["best"])
        writer.writerow([*row, *("" for _ in _AFTER)])
    for cell in sweep.cells:
        writer.writerow(_row(sweep, cell, columns["final"], columns["best"]))
    path = sweep.folder / FILE_NAME
    files.write_text(path, buffer.getvalue())
    return path


def _row(
    sweep: Sweep,
    cell: Cell,
    final: Sequence[tuple[str, str]],
    best: Sequence[tuple[str, str]],
) -> list[Any]:
    swept = [
        value_text(cell.overrides[key]) if key in cell.overrides else "" for key in sweep.swept
    ]
    step = cell.best.step if cell.best else ""
    scores = _values(cell.final, final) + _values(cell.best.scores if cell.best else None, best)
    after = [getattr(cell, name) for name in _AFTER[:-1]]
    folder = cell.folder.relative_to(sweep.folder).as_posix()
    row = [cell.number, *swept, cell.state, cell.reason, step, _beats_base(sweep, cell)]
    row += [*scores, *after, folder]
    return ["" if value is None else _harmless(value) for value in row]


def _harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; a swept text may come from a stranger.

    Source:
        OWASP, CSV Injection: texts that begin with = + - @ or a control character.
    """
    if not isinstance(value, str) or not value.startswith(_FORMULAS):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _beats_base(sweep: Sweep, cell: Cell) -> str:
    rule = rule_of(sweep)
    chosen = None if rule is None or cell.chosen is None else cell.chosen.scores.value(rule.score)
    if rule is None or chosen is None:
        return ""
    found = beats_base(rule, Candidate([cell], chosen, None))
    return "" if found is None else str(found).lower()


def _score_columns(rows: Sequence[Scores | None]) -> list[tuple[str, str]]:
    """(name, ending) of every column with a number in some row."""
    known = [row for row in rows if row is not None]
    return [
        (name, end)
        for name in measured_names(known)
        for end in ("", "_low", "_high")
        if not end or any(name in row.intervals for row in known)
    ]


def _values(scores: Scores | None, columns: Sequence[tuple[str, str]]) -> list[Any]:
    if scores is None:
        return ["" for _ in columns]
    found: list[Any] = []
    for name, end in columns:
        low_high = scores.intervals.get(name, ("", ""))
        found.append({"": scores.value(name), "_low": low_high[0], "_high": low_high[1]}[end])
    return ["" if value is None else value for value in found]
