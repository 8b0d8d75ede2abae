"""``metrics.jsonl`` of a run: one JSON line for each logged step, safe against kills."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlora.runtime.files import write_errors_named, write_text
from sdlora.runtime.progress import Progress

METRICS = "metrics.jsonl"


def append_metrics(
    run: Path,
    step: int,
    values: Mapping[str, float | str | None],
    reasons: Mapping[str, str] | None = None,
) -> None:
    """Add one JSON line to ``metrics.jsonl`` and sync it to the disk.

    A last line that a killed process truncated is removed first.

    Args:
        run: The run folder; made if missing.
        step: The optimizer step the numbers belong to.
        values: Name -> number or text; NaN, infinite and None become null.
        reasons: Name -> reason of a None; NaN and infinity give their own.

    Raises:
        ValueError: If a name is ``step`` or ``reasons``, which are reserved.
    """
    if taken := {"step", "reasons"} & set(values):
        raise ValueError(f"metric name {taken.pop()!r} is reserved; rename it.")
    line: dict[str, Any] = {"step": step}
    why = {name: reason for name, reason in (reasons or {}).items() if values.get(name) is None}
    for name, value in values.items():
        line[name] = value if isinstance(value, str) else finite(value)
        if value is not None and line[name] is None:
            why[name] = f"the value is {float(value)}"
    if why:
        line["reasons"] = why
    data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
    run.mkdir(parents=True, exist_ok=True)
    with write_errors_named(run / METRICS), (run / METRICS).open("ab+") as file:
        whole = _drop_cut_line(file)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            file.truncate(whole)  # it may be tried again
            raise


class MetricsFile:
    """``metrics.jsonl`` of a run that trains: lines that the disk does not take wait for the next.

    Args:
        run: The run folder.
        progress: Says once what fails.
    """

    def __init__(self, run: Path, progress: Progress) -> None:
        self._run = run
        self._progress = progress
        self._waiting: list[tuple[int, Mapping[str, float | str | None]]] = []

    def append(self, step: int, values: Mapping[str, float | str | None]) -> None:
        """Add a line, after those that wait; arguments as for :func:`append_metrics`."""
        self._waiting.append((step, values))
        with self._progress.tolerating(METRICS):
            while self._waiting:
                append_metrics(self._run, *self._waiting[0])
                del self._waiting[0]


def _drop_cut_line(file: Any) -> int:
    """Remove a last line without an end; returns the size of the others."""
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    file.truncate(whole)
    file.seek(0, os.SEEK_END)
    return int(whole)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; a truncated last line of a killed process is skipped.

    Args:
        run: The run folder; without the file there are no lines.

    Returns:
        One mapping for each line, with ``step``.

    Raises:
        ValueError: If another line is no JSON object; it gives the line's number.
    """
    path = run / METRICS
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
    """The lines of a run's metrics with a step; none, and a note, if the file is damaged."""
    try:
        lines = read_metrics(run)
    except (OSError, ValueError) as error:
        notes.append(f"{METRICS} cannot be read ({error}).")
        return []
    return [line for line in lines if isinstance(line.get("step"), int)]


def forget_metrics_after(run: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will repeat (those above ``step``)."""
    kept = [line for line in read_metrics(run) if line["step"] <= step]
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in kept)
    if (run / METRICS).exists():
        write_text(run / METRICS, text)


def finite(value: Any) -> float | int | None:
    """A number for JSON: ``None`` where it is NaN, infinite or no number."""
    if value is None:
        return None
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None
