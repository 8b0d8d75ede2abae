"""The table of cells on a sweep's page."""

from collections.abc import Sequence
from dataclasses import dataclass

from sdlora.evaluation.comparison import measured_names
from sdlora.evaluation.scores import Scores
from sdlora.reports.score_tables import Cell as Shown
from sdlora.reports.score_tables import Head, State, score_cell, score_head
from sdlora.runs.partial_files import is_number
from sdlora.sweep.cells import Cell, Sweep, value_text

BEST, FINAL = "best", "final"
PAGE = "report.html"


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        head: Title and better direction.
        group: Group of a score: chosen step or last step.
        is_minor: Whether it has no better direction.
    """

    head: Head
    group: str = ""
    is_minor: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One field: its text, and the sort key of its column (None: last)."""

    shown: Shown
    order: float | str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row; the base has no cell.

    Attributes:
        cell: Its cell.
        page: The cell's own page, relative to the sweep's folder; None before it is written.
        state: State of the cell, with its reason and unreadable files.
        entries: One for each column.
    """

    cell: Cell | None
    page: str | None
    state: str
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class CellTable:
    """Columns and rows; the base is the first row if it was scored."""

    columns: Sequence[Column]
    rows: Sequence[Row]


def cell_table(sweep: Sweep) -> CellTable:
    """Swept values, scores of best and last step, size, time and memory of all cells."""
    known = [scores for cell in sweep.cells for scores in (cell.final, cell.chosen_scores)]
    names = measured_names([scores for scores in known if scores is not None])
    heads = {name: score_head(name) for name in names}
    columns = [Column(Head(key)) for key in sweep.swept]
    for group in (BEST, FINAL):
        columns += [Column(head, group, not head.arrow) for head in heads.values()]
    columns += [Column(Head(title)) for title in ("step", "parameters", "file", "time", "memory")]
    rows = [] if sweep.base is None else [_base_row(sweep, names)]
    rows += [_row(sweep, cell, names) for cell in sweep.cells]
    return CellTable(columns, rows)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, without leading zeros."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _base_row(sweep: Sweep, names: Sequence[str]) -> Row:
    swept = [Entry(Shown(""))] * len(sweep.swept)
    scores = _score_entries(sweep.base, sweep.base, names)
    return Row(None, None, "", [*swept, *scores, *scores, *[Entry(Shown(""))] * 5])


def _row(sweep: Sweep, cell: Cell, names: Sequence[str]) -> Row:
    swept = [
        _swept(cell.overrides[key]) if key in cell.overrides else Entry(Shown())
        for key in sweep.swept
    ]
    step = None if cell.chosen is None else cell.chosen.step
    mib = None if cell.file_bytes is None else cell.file_bytes / 2**20
    entries = [
        *swept,
        *_score_entries(cell.chosen_scores, cell.base, names),
        *_score_entries(cell.final, cell.base, names),
        _entry(step, "{}"),
        _entry(cell.trainable_parameters, "{:,}"),
        _entry(mib, "{:.1f} MiB"),
        Entry(Shown(duration(cell.seconds)), cell.seconds) if cell.seconds else Entry(Shown()),
        _entry(cell.peak_memory_mib, "{:.0f} MiB"),
    ]
    state = ": ".join(part for part in (cell.state, cell.reason) if part)
    if cell.notes:
        state += f" ({' '.join(cell.notes)})"
    page = cell.folder / PAGE
    shown = page.relative_to(sweep.folder).as_posix() if page.is_file() else None
    return Row(cell, shown, state, entries)


def _swept(value: object) -> Entry:
    return Entry(Shown(value_text(value)), value if is_number(value) else value_text(value))


def _entry(value: float | None, form: str) -> Entry:
    return Entry(Shown()) if value is None else Entry(Shown(form.format(value)), value)


def _score_entries(scores: Scores | None, base: Scores | None, names: Sequence[str]) -> list[Entry]:
    state, reference = _state(scores), _state(base)
    return [Entry(score_cell(name, state, reference), state.values.get(name)) for name in names]


def _state(scores: Scores | None) -> State:
    if scores is None:
        return State("", {})
    values = {name: value for name, value in scores.values.items() if value is not None}
    return State("", values, scores.intervals)
