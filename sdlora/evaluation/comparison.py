"""Comparison of models: the table of scores for a terminal, and the gap closed."""

from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table

from sdlora.config.score_kinds import HIGHER, IDENTITY_SCORES, KINDS, kind
from sdlora.evaluation.scores import Scores

MOST_COLUMNS = 4
"""Number of models that fit side by side into 80 columns."""


def gap_closed(base: float | None, now: float | None, floor: float | None) -> float | None:
    """Share of the gap between the base's face distance and that of real pictures that is closed.

    Args:
        base: Face distance of the base model's pictures.
        now: Face distance with the adapter.
        floor: Face distance of real pictures of the person: the lower bound without copying.

    Returns:
        ``(base - now) / (base - floor)``: 0 at the base, 1 at the floor, negative when worse than
        the base; None if a number is missing or the base is not above the floor.
    """
    if base is None or now is None or floor is None or base <= floor:
        return None
    return (base - now) / (base - floor)


def score_table(
    rows: Mapping[str, Scores],
    *,
    floor: Scores | None = None,
    title: str = "Scores",
    has_base: bool = True,
    judged_only: bool = False,
) -> Group:
    """Tables of scores for the terminal.

    Scores are rows and models are columns; more than :data:`MOST_COLUMNS` models are rows, in as
    many tables as the scores need. ``±`` is half the width of the 95 % interval of a mean; arrows
    say which direction is better.

    Args:
        rows: Name -> scores, e.g. ``{"base": ..., "LoRA": ...}``.
        floor: Scores of real pictures of the person; adds them and the gap closed.
        title: Title of the tables.
        has_base: Whether the first row is the base; there is no gap without one.
        judged_only: Leave out scores without a better direction.

    Returns:
        A rich renderable; below the tables, the reasons of missing scores.

    Raises:
        ValueError: If there is nothing to show.
    """
    if not rows:
        raise ValueError("rows: no scores to show.")
    shown = dict(rows) if floor is None else {**rows, "real pictures": floor}
    lines = score_lines(rows, shown, floor if has_base else None, judged_only=judged_only)
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
    for name in columns:  # whole, in several lines: cut off, long names look alike
        table.add_column(name, justify="right", overflow="fold")
    for header, cells in lines.items():
        table.add_row(header, *cells)
    return table


def score_lines(
    rows: Mapping[str, Scores],
    shown: Mapping[str, Scores],
    floor: Scores | None,
    *,
    judged_only: bool = False,
) -> dict[str, list[str]]:
    """Header of a score -> its cells, one for each model.

    Args:
        rows: Name -> scores, the base first.
        shown: Models with a cell: ``rows``, and perhaps the real pictures.
        floor: Scores of the real pictures, for the gap closed.
        judged_only: Leave out scores without a better direction.
    """
    base = next(iter(rows.values()))
    lines = {"pictures": [str(scores.num_pictures) for scores in shown.values()]}
    for name in measured_names(shown.values()):
        look = kind(name)
        if judged_only and not look.sign:
            continue
        header = f"{look.title} {look.arrow}".strip()
        lines[header] = [_cell(name, scores) for scores in shown.values()]
    if floor is not None:
        shares = [gap_closed_by(scores, base, floor) for scores in shown.values()]
        if any(share is not None for share in shares):
            lines["gap closed " + HIGHER] = ["-" if s is None else f"{s:.0%}" for s in shares]
    return lines


def measured_names(scores: Iterable[Scores]) -> list[str]:
    """Names of scores that at least one model has a number for, in the order of tables."""
    found = {name for each in scores for name, value in each.values.items() if value is not None}
    ranks = {name: rank for rank, name in enumerate(KINDS)}
    return sorted(found, key=lambda name: ranks.get(name, len(ranks)))


def _turned(
    lines: Mapping[str, Sequence[str]], headers: Sequence[str], models: Sequence[str]
) -> dict[str, list[str]]:
    return {model: [lines[name][i] for name in headers] for i, model in enumerate(models)}


def _reasons(shown: Mapping[str, Scores]) -> list[str]:
    """Reasons of missing scores; a reason shared by all models is listed once."""
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


def gap_closed_by(scores: Scores, base: Scores, floor: Scores) -> float | None:
    """:func:`gap_closed` of a model's scores; None for the base and the real pictures."""
    if scores is base or scores is floor:
        return None
    name = IDENTITY_SCORES[0]
    return gap_closed(base.value(name), scores.value(name), floor.value(name))
