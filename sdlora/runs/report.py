"""``report.json``: all measurements of a run or of an evaluation."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from sdlora.evaluation.comparison import gap_closed_by
from sdlora.evaluation.scores import Scores, scores_from
from sdlora.runs.metrics import finite
from sdlora.runtime.files import write_json

REPORT = "report.json"
LORA_ROW, WHOLE_ROW = "LoRA", "trained"
"""Name of the row of what a run hands over: a LoRA, or a whole model. Another last step has the
last row."""
REPORT_VERSION = 2
"""Version of the format; 1 mixed the scores with their details."""


def write_report(
    folder: Path,
    scores: Mapping[str, Scores],
    *,
    settings: Mapping[str, Any],
    floor: Scores | None = None,
    pictures: Mapping[str, str] | None = None,
    has_base: bool = True,
) -> None:
    """Write all measurements, whole or not at all (schema: docs/evaluation.md).

    Args:
        folder: Where it is written.
        scores: Name -> scores.
        settings: Settings of the pictures; plain JSON values and paths.
        floor: Scores of real pictures of the person.
        pictures: Name -> folder of its pictures, relative to ``folder``.
        has_base: Whether the first scores are the base's.
    """
    base = next(iter(scores.values()), None) if has_base else None
    closed = {
        name: None if base is None or floor is None else gap_closed_by(row, base, floor)
        for name, row in scores.items()
    }
    write_json(
        folder / REPORT,
        {
            "version": REPORT_VERSION,
            "settings": _plain(settings),
            "scores": {name: _plain(row) for name, row in scores.items()},
            "real_pictures": None if floor is None else _plain(floor),
            "gap_closed": closed,
            "pictures": dict(pictures or {}),
        },
    )


def read_scores(folder: Path) -> dict[str, Scores]:
    """Name -> scores of a report, the base first; empty without a report.

    Raises:
        KeyError, TypeError, ValueError: If it has another shape.
    """
    path = folder / REPORT
    stored = json.loads(path.read_text("utf-8"))["scores"] if path.is_file() else {}
    return {name: scores_from(row) for name, row in stored.items()}


def handed_over(names: Iterable[str]) -> str | None:
    """The row of a run's report that is about what it hands over; ``None``: there is none."""
    return next((name for name in names if name in (LORA_ROW, WHOLE_ROW)), None)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    return finite(value) if isinstance(value, float) else value
