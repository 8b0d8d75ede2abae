"""Scores on pages: tables, numbers of single pictures, and reasons of missing ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdlora.config.score_kinds import HIGHER, KINDS, MAIN_SCORES, kind
from sdlora.runs.partial_files import is_number, mapping

MAX_STATES_ACROSS = 5
"""Largest number of states (base, LoRA, ...) as columns of the table; more are rows."""

_NUM_PICTURES, _GAP_CLOSED = "num_pictures", "gap_closed"


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a table.

    Attributes:
        text: The number.
        margin: Half the width of its interval.
        change: Signed difference to the base.
        judgement: ``better`` or ``worse`` than the base, or neither.
        interval: Both ends as text.
    """

    text: str = "–"
    margin: str = ""
    change: str = ""
    judgement: str = ""
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """Header of a row or column: name and better direction."""

    title: str
    arrow: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of scores."""

    columns: list[Head]
    rows: list[tuple[Head, list[Cell]]]


@dataclass(frozen=True, slots=True)
class State:
    """The scores of one state of the model, from ``report.json``.

    Attributes:
        name: Name of its row in ``report.json``.
        values: Name of a score -> number, without missing ones.
        intervals: Name of a score -> ends.
        reasons: Name of a score -> reason of a missing one.
        per_picture: Column -> one value for each picture.
        is_real: Whether these are real pictures.
    """

    name: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reasons: Mapping[str, Any] = field(default_factory=dict)
    per_picture: Mapping[str, Any] = field(default_factory=dict)
    is_real: bool = False


def read_states(report: Mapping[str, Any]) -> list[State]:
    """The rows of ``report.json``, the base first; rows of another shape are left out."""
    closed = mapping(report.get("gap_closed"))
    states: list[State] = []
    for name, row in mapping(report.get("scores")).items():
        gap = closed.get(name) if states else None  # the base has none of its own
        states.append(state_of(name, row, {_GAP_CLOSED: gap}))
    if real := mapping(report.get("real_pictures")):
        states.append(state_of("real pictures", real, is_real=True))
    return states


def score_table(states: Sequence[State]) -> Table | None:
    """Scores as rows and states as columns, or transposed if there are many states."""
    names = _in_order(name for state in states for name in state.values)
    if not names:
        return None
    base = states[0]
    across = [Head(state.name) for state in states]
    down = [score_head(name) for name in names]
    cells = [[score_cell(name, state, base) for state in states] for name in names]
    if len(states) <= MAX_STATES_ACROSS:
        return Table(across, list(zip(down, cells, strict=True)))
    turned = [list(row) for row in zip(*cells, strict=True)]
    return Table(down, list(zip(across, turned, strict=True)))


def reasons(states: Sequence[State]) -> list[str]:
    """Reasons of missing scores; one of several states or scores is listed once."""
    missing: dict[str, dict[str, list[str]]] = {}
    for state in states:
        for name, why in state.reasons.items():
            scores = missing.setdefault(str(why), {})
            scores.setdefault(score_head(name).title, []).append(state.name)
    drawn = {state.name for state in states if not state.is_real}
    return [
        f"no {', '.join(scores)}{_of(drawn, scores.values())}: {why}"
        for why, scores in missing.items()
    ]


def scored_names(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The scores with a number in ``metrics.jsonl``, in the order of tables."""
    found = {
        key.removeprefix("eval/"): None
        for line in lines
        for key, value in line.items()
        if key.startswith("eval/") and is_number(value)
    }
    return _in_order(
        name
        for name in found
        if not (name.endswith(("_low", "_high")) and name.rpartition("_")[0] in found)
    )


def step_table(lines: Sequence[Mapping[str, Any]], best: Any) -> Table | None:
    """Every score of every scored step; the last line of a step counts."""
    names = scored_names(lines)
    steps: dict[int, dict[str, float]] = {}
    for line in lines:
        values = [line.get(f"eval/{name}") for name in names]
        found = {name: v for name, v in zip(names, values, strict=True) if is_number(v)}
        if found:
            steps.setdefault(line["step"], {}).update(found)
    if not steps:
        return None
    rows = [
        (
            Head(f"{step} ★" if step == best else str(step)),
            [Cell(score_text(name, values[name])) if name in values else Cell() for name in names],
        )
        for step, values in sorted(steps.items())
    ]
    return Table([score_head(name) for name in names], rows)


@dataclass(frozen=True, slots=True)
class PictureScores:
    """The scores of one picture.

    Attributes:
        short: Short text under it.
        long: The same with whole names.
        is_faceless: Whether no face was found.
    """

    short: tuple[str, ...]
    long: str
    is_faceless: bool


def picture_scores(
    per_picture: Mapping[str, Any], index: int | None, prompt: str
) -> PictureScores | None:
    """The scores of one picture; None if it has none.

    Args:
        per_picture: Column -> one value for each picture.
        index: Its index.
        prompt: Its prompt; scores with another prompt at this index are of another picture.
    """
    if index is None or _at(per_picture, "prompt", index) not in (None, prompt):
        return None
    short, long = [], []
    for name in MAIN_SCORES:
        title = kind(name).title
        value = _at(per_picture, name, index)
        if is_number(value):
            short.append(f"{title.split()[0]} {score_text(name, value)}")
            long.append(f"{title} {score_text(name, value)}")
    is_faceless = _at(per_picture, "num_faces", index) == 0
    if is_faceless:
        long.append("no face")
    return PictureScores(tuple(short), ", ".join(long), is_faceless) if long else None


def ends(value: Any) -> tuple[float, float] | None:
    """The ends of an interval; None for another value."""
    match value:
        case [low, high] if is_number(low) and is_number(high) and low <= high:
            return low, high
    return None


def state_of(
    name: str, row: Any, more: Mapping[str, Any] | None = None, is_real: bool = False
) -> State:
    """The state of a stored row, in the expected shapes.

    Args:
        name: Its name.
        row: The row as in ``report.json``; of another shape it is empty.
        more: Further values.
        is_real: Whether it is about real pictures.
    """
    row = mapping(row)
    values = {_NUM_PICTURES: row.get(_NUM_PICTURES), **mapping(row.get("values")), **(more or {})}
    intervals = mapping(row.get("intervals"))
    return State(
        name=name,
        values={score: value for score, value in values.items() if is_number(value)},
        intervals={score: pair for score in intervals if (pair := ends(intervals[score]))},
        reasons=mapping(row.get("reasons")),
        per_picture=mapping(row.get("per_picture")),
        is_real=is_real,
    )


def _in_order(names: Iterable[str]) -> list[str]:
    """Names in the order of tables: number of pictures, known scores, scores of extensions."""
    found = dict.fromkeys(names)
    known = [_NUM_PICTURES, *KINDS]
    others = [name for name in found if name not in (*known, _GAP_CLOSED)]
    return [name for name in (*known, *others, _GAP_CLOSED) if name in found]


def score_head(name: str) -> Head:
    """Title and better direction of a score."""
    if name == _NUM_PICTURES:
        return Head("pictures")
    if name == _GAP_CLOSED:
        return Head("gap closed", HIGHER)
    return Head(kind(name).title, kind(name).arrow)


def score_text(name: str, value: float) -> str:
    """A score with its number of digits."""
    if name == _GAP_CLOSED:
        return f"{value:.0%}"
    return f"{value:.{0 if name == _NUM_PICTURES else kind(name).digits}f}"


def score_cell(name: str, state: State, base: State) -> Cell:
    """A score of a state with its difference to the base; empty if missing."""
    value = state.values.get(name)
    if value is None:
        return Cell()
    text, margin, interval = score_text(name, value), "", ""
    pair = state.intervals.get(name)
    if pair is not None and pair[0] < pair[1]:
        margin = f"± {score_text(name, (pair[1] - pair[0]) / 2)}"
        interval = f"95 %: {score_text(name, pair[0])} to {score_text(name, pair[1])}"
    arrow, before = score_head(name).arrow, base.values.get(name)
    if state.is_real or not arrow or before is None:
        return Cell(text, margin, interval=interval)
    change = round(value - before, kind(name).digits)
    if not change or name == _GAP_CLOSED:
        return Cell(text, margin, interval=interval)
    is_better = (change > 0) == (arrow == HIGHER)
    shown = f"{change:+.{kind(name).digits}f}"
    return Cell(text, margin, shown, "better" if is_better else "worse", interval)


def _of(drawn: set[str], states: Iterable[Sequence[str]]) -> str:
    """The states in brackets, unless they are all drawn ones."""
    named = dict.fromkeys(name for names in states for name in names)
    return "" if drawn <= named.keys() else f" ({'; '.join(named)})"


def _at(columns: Mapping[str, Any], name: str, index: int) -> Any:
    column = columns.get(name)
    return column[index] if isinstance(column, list) and index < len(column) else None
