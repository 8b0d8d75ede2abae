"""JSON data for the scripts of a sweep's page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sdlora.config.score_kinds import IDENTITY_SCORES, PROMPT_SCORE, kind
from sdlora.evaluation.comparison import measured_names
from sdlora.evaluation.scores import Scores
from sdlora.reports.charts import COLORS
from sdlora.reports.plots import averaged
from sdlora.reports.score_tables import scored_names
from sdlora.reports.sweep_pictures import Thumbnails
from sdlora.runs.partial_files import is_number
from sdlora.sweep.cells import Cell, Sweep, value_text
from sdlora.sweep.choice import Choice, pareto_front


def page_data(sweep: Sweep, choice: Choice | None, shown: Thumbnails) -> dict[str, Any]:
    """Keys, cells (scores, curves, pictures) and the base, as plain values.

    Args:
        sweep: The sweep.
        choice: The recommended cell, if any.
        shown: Its pictures.
    """
    keys = {
        key: [value_text(value) for value in values]
        for key, values in sweep.swept.items()
        if values
    }
    names = judged_names(sweep)
    across, down = _axes(list(keys))
    return {
        "keys": [{"name": key, "values": values} for key, values in keys.items()],
        "down": down,
        "across": across,
        "scores": [_look(name) for name in names],
        "rule": None if choice is None else choice.rule.score,
        "winner": None if choice is None else choice.winner.cell.number,
        "runnerUp": choice.runner_up.cell.number if choice and choice.runner_up else None,
        "prompts": [{"text": text, "seed": seed} for text, seed in shown.prompts],
        "steps": shown.steps,
        "cells": [_cell(cell, keys, names, shown) for cell in sweep.cells],
        "base": {"scores": _scores(sweep.base, names), "pictures": _base_pictures(shown)},
        "tradeOff": trade_off(sweep),
        "colors": COLORS,
    }


def _look(name: str) -> dict[str, Any]:
    look = kind(name)
    return {"name": name, "title": look.title, "arrow": look.arrow, "digits": look.digits}


def judged_names(sweep: Sweep) -> list[str]:
    """Scores of some cell with a better direction."""
    known = [each for cell in sweep.cells for each in (cell.final, cell.chosen_scores) if each]
    return [name for name in measured_names(known) if kind(name).arrow]


def trade_off(sweep: Sweep) -> dict[str, Any] | None:
    """Scores of the trade-off (identity and prompt), and the cells of its Pareto front.

    None if one of the two was not measured.
    """
    measured = set(judged_names(sweep))
    identity = next((name for name in IDENTITY_SCORES if name in measured), None)
    if identity is None or PROMPT_SCORE not in measured:
        return None
    pair = (identity, PROMPT_SCORE)
    places: dict[int, tuple[float, float]] = {}
    for cell in sweep.cells:
        values = _scores(cell.chosen_scores, pair)
        if len(values) == 2:
            x, y = (kind(name).sign * values[name] for name in pair)
            places[cell.number] = (x, y)
    numbers = list(places)
    front = [numbers[index] for index in pareto_front(list(places.values()))]
    return {"x": identity, "y": PROMPT_SCORE, "front": front}


def _axes(keys: Sequence[str]) -> tuple[str | None, str | None]:
    """Keys across (the first learning rate, else the last) and down (the first other one)."""
    if len(keys) < 2:
        return None, keys[0] if keys else None
    across = next((key for key in keys if key.endswith("lr")), keys[-1])
    return across, next(key for key in keys if key != across)


def _cell(
    cell: Cell,
    keys: Mapping[str, Sequence[str]],
    names: Sequence[str],
    shown: Thumbnails,
) -> dict[str, Any]:
    pictures = shown.cells.get(cell.number, {})
    return {
        "number": cell.number,
        "name": cell.name,
        "values": [
            values.index(value_text(cell.overrides[key])) if key in cell.overrides else None
            for key, values in keys.items()
        ],
        "state": cell.state,
        "reason": cell.reason,
        "bestStep": None if cell.best is None else cell.best.step,
        "best": _scores(cell.chosen_scores, names),
        "curves": _curves(cell, names),
        "pictures": {prompt: [asdict(each) for each in row] for prompt, row in pictures.items()},
    }


def _scores(scores: Scores | None, names: Sequence[str]) -> dict[str, float]:
    """The finite numbers among the named scores."""
    if scores is None:
        return {}
    return {name: value for name in names if is_number(value := scores.value(name))}


def _curves(cell: Cell, names: Sequence[str]) -> dict[str, list[list[float]]]:
    curves = {}
    for name in scored_names(cell.lines):
        points = {
            line["step"]: float(line[f"eval/{name}"])
            for line in cell.lines
            if is_number(line.get(f"eval/{name}"))
        }
        if name in names and points:
            steps, values = averaged(sorted(points.items()))
            curves[name] = [list(pair) for pair in zip(steps, values, strict=True)]
    return curves


def _base_pictures(shown: Thumbnails) -> dict[int, list[dict[str, Any]]]:
    return {prompt: [asdict(each)] for prompt, each in shown.base.items()}
