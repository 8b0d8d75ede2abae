"""The page of a run or an evaluation: ``report.html``, one file without external resources."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlora.data.sheet.sheet_output import FILE_NAME as DATA_SHEET
from sdlora.reports.charts import charts, state_charts
from sdlora.reports.columns import Column, row_columns, step_columns
from sdlora.reports.gallery import data_uri, read_gallery, read_picture
from sdlora.reports.how_it_was_made import command, versions
from sdlora.reports.nearest_pairs import copying, read_pairs
from sdlora.reports.plots import library_script
from sdlora.reports.rendering import write_page
from sdlora.reports.run_files import run_files
from sdlora.reports.score_tables import State, read_states, reasons, score_table, step_table
from sdlora.runs.best import CHOSEN_IN, SCORES
from sdlora.runs.identity import CONFIG
from sdlora.runs.metrics import read_steps
from sdlora.runs.partial_files import inside, mapping, read_mapping
from sdlora.runs.report import LORA_ROW, REPORT, WHOLE_ROW
from sdlora.runs.run_folder import LORA
from sdlora.runs.samples import BASE, LAST, SAMPLES

FILE_NAME = "report.html"
MAX_BYTES = 15 * 1024 * 1024
SHOWN_FINDINGS = 40
"""Number of listed findings of each kind; ``dataset.json`` has all."""

_PICTURES_BYTES = 9 * 1024 * 1024
_SHEET_BYTES = 2 * 1024 * 1024
_SHEET_PX = (1600, 12000)


def write_html_report(run: Path) -> Path:
    """Write ``report.html`` into the folder of a run or of an evaluation, whole or not at all.

    Every part is optional: the page says what the folder lacks, and names files that cannot be
    read.

    Args:
        run: The folder, of training or of ``sdlora evaluate``.

    Returns:
        The page, one file under 15 MiB.
    """
    facts = _facts(run)
    libraries = [library_script()] if facts["charts"] else []
    return write_page(run / FILE_NAME, "page", facts, libraries=libraries)


def _facts(run: Path) -> dict[str, Any]:
    notes: list[str] = []
    stored = read_mapping(run, CONFIG, notes)
    config = mapping(stored.get("config"))
    report = read_mapping(run, REPORT, notes)
    dataset = _sheet(read_mapping(run, DATA_SHEET, notes))
    choices = [f"{name}/{SCORES}" for name in CHOSEN_IN if (run / name / SCORES).is_file()]
    best = read_mapping(run, choices[0], notes).get("step") if choices else None
    lines = read_steps(run, notes)
    last = max((line["step"] for line in lines), default=None)
    states = read_states(report)
    is_run = bool(stored or lines or not mapping(report.get("pictures")))
    if not is_run:
        config = mapping(mapping(report.get("settings")).get("config"))
    columns = _columns(run, report, states, last, notes, is_run=is_run)
    numbers = _numbers(run, report, states, columns, is_run=is_run)
    gallery = read_gallery(run, columns, _PICTURES_BYTES, numbers)
    return {
        "title": str(_at(config, "export.name") or run.resolve().name),
        "what": "run" if is_run else "evaluation",
        "head": _head(run, config, dataset, best, last) if is_run else _evaluation_head(config),
        "table": score_table(states),
        "reasons": reasons(states),
        "base": states[0].name if len(states) > 1 else None,  # what others are compared with
        "gallery": gallery,
        "best": None if best is None else f"step {best}",
        "pairs": read_pairs(run, notes),
        "copying": copying(states),
        "charts": charts(lines, best, _trained(config)) if is_run else state_charts(states),
        "trained": _trained(config),
        "steps": step_table(lines, best),
        "dataset": dataset,
        "findings": _findings(dataset),
        "shown_findings": SHOWN_FINDINGS,
        "contact_sheet": _contact_sheet(run, notes),
        "files": run_files(run) if is_run else [],
        "command": command(run, "train" if is_run else "evaluate", notes),
        "config": json.dumps(config, indent=2, ensure_ascii=False) if config else None,
        "hashes": mapping(stored.get("hashes")),
        "versions": versions(),
        "notes": notes + gallery.notes,
    }


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


def _sheet(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``dataset.json`` on the page, in the expected shapes."""
    shown: dict[str, Any] = {
        name: found for name in ("counts", "faces") if (found := mapping(dataset.get(name)))
    }
    for name, kind in (("buckets", dict), ("findings", dict), ("notes", str)):
        listed = dataset.get(name)
        if isinstance(listed, list):
            shown[name] = [entry for entry in listed if isinstance(entry, kind)]
    return shown


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = mapping(value).get(part)
    return value


def _head(
    run: Path,
    config: Mapping[str, Any],
    dataset: Mapping[str, Any],
    best: Any,
    last: int | None,
) -> list[tuple[str, str]]:
    """Facts of a training run as (name, value); unknown ones are left out."""
    counts = mapping(dataset.get("counts"))
    max_steps = _at(config, "trainer.max_steps")
    roots = [_at(config, "data.root")] + [
        mapping(root).get("path", root) for root in _at(config, "data.roots") or []
    ]
    steps = None if last is None and max_steps is None else f"{last if last is not None else 0}"
    if steps is not None and max_steps is not None and max_steps != last:
        steps += f" of {max_steps}"
    is_frozen = _at(config, "lora.text_encoder.method") == "frozen"
    rows = {
        "Base": _at(config, "model.path"),
        "Drawn with": _at(config, "model.draw_with"),
        "Pictures": counts.get("pictures"),
        "From": ", ".join(str(root) for root in roots if root),
        "Resolution": _at(config, "data.resolution"),
        "Rank": _at(config, "lora.r") if _trained(config) == LORA_ROW else None,
        "Batch": _at(config, "data.batch_size"),
        "Denoiser rate": _at(config, "optim.transformer_lr") or _at(config, "optim.unet_lr"),
        "Text encoder rate": None if is_frozen else _at(config, "optim.text_encoder_lr"),
        "Steps": steps,
        "Chosen step": best,
    }
    kohya = Path(LORA, f"{_at(config, 'export.name')}.safetensors")
    if (run / kohya).is_file():
        rows["For ComfyUI, A1111"] = kohya.as_posix()
    return _known(rows)


def _trained(config: Mapping[str, Any]) -> str:
    """Name of the trained model: a LoRA, unless all weights trained."""
    methods = [mapping(part).get("method") for part in mapping(_at(config, "lora")).values()]
    return WHOLE_ROW if "full" in methods else LORA_ROW


def _evaluation_head(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts of an evaluation as (name, value); unknown ones are left out."""
    rows = {
        "Run": _at(config, "run"),
        "LoRA": _at(config, "lora"),
        "Pictures": _at(config, "images"),
    }
    if rows["Run"]:
        rows["Checkpoint"] = _at(config, "checkpoint")
    if not rows["Pictures"]:
        rows |= {
            "Base": _at(config, "model.path"),
            "Drawn with": _at(config, "model.draw_with"),
            "Strength": _at(config, "lora_scale"),
            "Resolution": _at(config, "resolution"),
            "Sampling steps": _at(config, "sampling.num_steps"),
            "Guidance": _at(config, "sampling.guidance_scale"),
        }
    return _known(rows)


def _known(rows: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in rows.items()
        if value not in (None, "", [])
    ]


def _findings(dataset: Mapping[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By severity and kind, errors first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for finding in dataset.get("findings", []):
        key = str(finding.get("severity", "")), str(finding.get("kind", "")).replace("_", " ")
        groups.setdefault(key, []).append(finding)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0] != "error", item[0])))


def _contact_sheet(run: Path, notes: list[str]) -> dict[str, Any] | None:
    path = run / "contact_sheet.png"
    if not path.is_file():
        return None
    width, height = _SHEET_PX
    while True:
        try:
            image = read_picture(path, width, height)
        except OSError as error:
            notes.append(f"contact_sheet.png cannot be read ({error}).")
            return None
        uri = data_uri(image)
        if len(uri) <= _SHEET_BYTES:
            return {"uri": uri, "width": image.width, "height": image.height}
        width, height = width * 3 // 4, height * 3 // 4
