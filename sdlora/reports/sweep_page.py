"""The page and the table of a sweep: ``report.html`` and ``results.csv``."""

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from sdlora.reports.rendering import write_page
from sdlora.reports.sweep_choice import commands, sentences
from sdlora.reports.sweep_data import page_data
from sdlora.reports.sweep_pictures import Thumbnails, read_thumbnails
from sdlora.reports.sweep_table import cell_table, duration
from sdlora.sweep.cells import Sweep, read_sweep, value_text
from sdlora.sweep.choice import choose
from sdlora.sweep.table import write_results

FILE_NAME = "report.html"

_MOST_VALUES = 8


def write_sweep_report(folder: Path) -> list[Path]:
    """Write ``report.html`` and ``results.csv`` into the folder of a sweep.

    It can be called at any time: rows show whether cells have not begun, run, failed or were
        killed.

    Args:
        folder: Folder with ``sweep.yaml``.

    Returns:
        Both files.

    Raises:
        SweepError: If there is no ``sweep.yaml`` or it is damaged.
    """
    sweep = read_sweep(folder)
    parts = ["sweep_table", "sweep_keys", "sweep_pictures", "sweep_plots"]
    try:
        page = write_page(folder / FILE_NAME, "sweep", _facts(sweep), parts=parts)
    finally:  # a picture that breaks the page, or a file that is open elsewhere, costs one of both
        table = write_results(sweep)
    return [page, table]


def _facts(sweep: Sweep) -> dict[str, Any]:
    choice = choose(sweep)
    shown = read_thumbnails(sweep)
    table = cell_table(sweep)
    return {
        "title": sweep.name,
        "head": _head(sweep),
        "sentences": sentences(sweep, choice),
        "commands": {} if choice is None else commands(sweep, choice),
        "winner": None if choice is None else choice.winner.cell.number,
        "table": table,
        "has_minor": any(column.is_minor for column in table.columns),
        "data": page_data(sweep, choice, shown),
        "pictures": shown,
        "picture_text": _picture_text(shown),
        "command": shlex.join(["sdlora", "train", "-m", *sweep.command]),
        "shared": sweep.shared,
    }


def _head(sweep: Sweep) -> list[tuple[str, str]]:
    """State and swept keys of the sweep."""
    counts = Counter(cell.state for cell in sweep.cells)
    states = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    seconds = [cell.seconds for cell in sweep.cells if cell.seconds is not None]
    rows = {"Cells": f"{len(sweep.cells)} ({states})" if states else "0"}
    for key, values in sweep.swept.items():
        shown = [value_text(value) for value in values]
        rows[key] = ", ".join(shown) if len(shown) <= _MOST_VALUES else f"{len(shown)} values"
    if seconds:
        rows["Time of all cells"] = duration(sum(seconds))
    return list(rows.items())


def _picture_text(shown: Thumbnails) -> str:
    """Text on the pictures of the page, and where the full ones are."""
    return (
        "Pictures are those of samples/ in each cell: the previews of the steps that were drawn, "
        "and all prompts of the last step; if a cell has none of the chosen step, the nearest is "
        f"shown and named. They are embedded with sides of at most {shown.side_px} pixels; a click "
        "enlarges and links to the file."
    )
