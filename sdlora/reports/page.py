"""The page of a run or an evaluation: ``report.html``, one file without external resources."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlora.reports.charts import charts, live_charts, state_charts
from sdlora.reports.columns import Column, row_columns, step_columns
from sdlora.reports.data_part import (
    SHOWN_FINDINGS,
    contact_sheet,
    findings_by_kind,
    read_sheet,
)
from sdlora.reports.first_screen import (
    Lines,
    Screen,
    compared,
    judged_run,
    offers,
    training_pictures,
)
from sdlora.reports.gallery import Gallery, read_gallery
from sdlora.reports.how_it_was_made import command, versions
from sdlora.reports.nearest_pairs import copying, read_pairs
from sdlora.reports.page_head import at, evaluation_head, run_head, trained_name
from sdlora.reports.plots import Chart, library_script
from sdlora.reports.rendering import write_page
from sdlora.reports.run_files import run_files
from sdlora.reports.run_state import FINISHED, RUNNING, Progressed, RunState, progressed
from sdlora.reports.score_tables import State, read_states, reasons, score_table, step_table
from sdlora.reports.thumbnails import Thumbnails
from sdlora.reports.usage import usage_of
from sdlora.reports.verdict import verdict_on
from sdlora.runs.best import CHOSEN_IN, SCORES
from sdlora.runs.identity import CONFIG
from sdlora.runs.metrics import read_steps
from sdlora.runs.partial_files import inside, mapping, read_mapping
from sdlora.runs.report import LORA_ROW, REPORT, WHOLE_ROW
from sdlora.runs.samples import BASE, LAST, SAMPLES

FILE_NAME = "report.html"
MAX_BYTES = 15 * 1024 * 1024
SHOWN_PROMPTS = 4
"""Prompts of the gallery that are not folded."""

_PICTURES_BYTES = 9 * 1024 * 1024


def write_html_report(
    run: Path, state: RunState | None = None, thumbnails: Thumbnails | None = None
) -> Path:
    """Write ``report.html`` into the folder of a run or of an evaluation, whole or not at all.

    Every part is optional: the page says what the folder lacks, and names files that cannot be
    read.

    Args:
        run: The folder, of training or of ``sdlora evaluate``.
        state: What the run says of itself; ``None``: it has ended.
        thumbnails: Those of the page's last writing, which are not encoded again.

    Returns:
        The page, one file under 15 MiB.
    """
    facts = _facts(run, state or RunState(FINISHED), thumbnails or Thumbnails())
    libraries = [library_script()] if facts["charts"] else []
    return write_page(run / FILE_NAME, "page", facts, libraries=libraries)


def _facts(run: Path, state: RunState, thumbnails: Thumbnails) -> dict[str, Any]:
    notes: list[str] = []
    stored = read_mapping(run, CONFIG, notes)
    config = mapping(stored.get("config"))
    report = {} if state.name == RUNNING else read_mapping(run, REPORT, notes)  # of an earlier end
    dataset = read_sheet(run, notes)
    choices = [f"{name}/{SCORES}" for name in CHOSEN_IN if (run / name / SCORES).is_file()]
    best = read_mapping(run, choices[0], notes) if choices else {}
    lines = read_steps(run, notes)
    states = read_states(report)
    is_run = bool(stored or lines or not mapping(report.get("pictures")))
    if not is_run:
        config = mapping(mapping(report.get("settings")).get("config"))
    step, last = best.get("step"), max((line["step"] for line in lines), default=None)
    columns = _columns(run, report, states, last, notes, is_run=is_run)
    numbers = _numbers(run, report, states, columns, is_run=is_run)
    gallery = read_gallery(run, columns, _PICTURES_BYTES, numbers, thumbnails)
    facts: dict[str, Any] = {
        "what": "run" if is_run else "evaluation",
        "head": run_head(config, dataset, step, last) if is_run else evaluation_head(config),
        "table": score_table(states),
        "reasons": reasons(states),
        "base": states[0].name if len(states) > 1 else None,  # what others are compared with
        "gallery": gallery,
        "best": None if step is None else f"step {step}",
        "pairs": read_pairs(run, notes, thumbnails),
        "copying": copying(states),
        "charts": _charts(config, lines, step, state) if is_run else state_charts(states),
        "trained": trained_name(config),
        "steps": step_table(lines, step),
        "dataset": dataset,
        "findings": findings_by_kind(dataset),
        "shown_findings": SHOWN_FINDINGS,
        "contact_sheet": contact_sheet(run, thumbnails, notes),
        "files": run_files(run) if is_run else [],
        "command": command(run, "train" if is_run else "evaluate", notes),
        "config": json.dumps(config, indent=2, ensure_ascii=False) if config else None,
        "hashes": mapping(stored.get("hashes")),
        "versions": versions(),
        "shown_prompts": SHOWN_PROMPTS,
    }
    name = str(at(config, "export.name") or run.resolve().name)
    facts |= {"title": name, "folder": run.absolute().as_posix(), "progress": None, "screen": None}
    if is_run:
        far = progressed(run, state, lines, at(config, "trainer.max_steps"))
        screen = _screen(run, config, states, best, lines, gallery, state, thumbnails, notes)
        facts |= {"progress": far, "screen": screen, "title": _title(run, name, far)}
    return facts | {"notes": notes + gallery.notes}


def _charts(config: Mapping[str, Any], lines: Lines, step: Any, state: RunState) -> list[Chart]:
    trained = trained_name(config)
    return live_charts(lines, trained) if state.name == RUNNING else charts(lines, step, trained)


def _title(run: Path, name: str, far: Progressed) -> str:
    """The title of a run's page: what tells it from others in a row of tabs."""
    done = f"{far.step}/{far.max_steps} " if far.state.name == RUNNING and far.max_steps else ""
    return " · ".join(filter(None, (f"{done}{name}", far.began, run.resolve().name)))


def _screen(
    run: Path,
    config: Mapping[str, Any],
    states: list[State],
    best: Mapping[str, Any],
    lines: Lines,
    gallery: Gallery,
    state: RunState,
    thumbnails: Thumbnails,
    notes: list[str],
) -> Screen:
    judged, step = judged_run(config, states, best, lines), best.get("step")
    said = verdict_on(judged, so_far=state.name != FINISHED)
    return Screen(
        verdict=said,
        usage=usage_of(run, config, said.strength),
        compared=compared(gallery, f"step {step}"),
        training=training_pictures(run, thumbnails, notes),
        offers=offers(run, judged, lines, step if isinstance(step, int) else None, said.strength),
    )


def _columns(
    run: Path,
    report: Mapping[str, Any],
    states: list[State],
    last: int | None,
    notes: list[str],
    *,
    is_run: bool,
) -> list[Column]:
    """The steps of a run; of an evaluation, the rows of its report."""
    if is_run:
        return step_columns(run / SAMPLES, last)
    folders = mapping(report.get("pictures"))
    base = states[0].name if states else next(iter(folders))
    return row_columns(run, folders, base, notes)


def _numbers(
    run: Path,
    report: Mapping[str, Any],
    states: list[State],
    columns: list[Column],
    *,
    is_run: bool,
) -> dict[str, Mapping[str, Any]]:
    """Scores of single pictures for each column whose pictures belong to a row of the report."""
    folders = mapping(report.get("pictures"))
    if is_run:
        last = {name: f"{SAMPLES}/{LAST}" for name in (LORA_ROW, WHOLE_ROW)}  # older reports
        folders = {"base": f"{SAMPLES}/{BASE}", **last, **folders}
    of_folder = {
        folder.resolve(): state.per_picture
        for state in states
        if (folder := inside(run, folders.get(state.name))) is not None
    }
    return {column.label: of_folder.get(column.folder.resolve(), {}) for column in columns}
