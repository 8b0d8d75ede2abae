"""The run folder as one page for people: ``report.html``, with nothing to fetch from anywhere."""

import base64
import hashlib
import json
import platform
import shlex
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from sdlora import __version__, files
from sdlora.html_charts import charts, library_script, scored_steps
from sdlora.html_pictures import data_uri, read_gallery, read_picture
from sdlora.report import read_metrics

FILE_NAME = "report.html"
MAX_BYTES = 15 * 1024 * 1024
SHOWN_FINDINGS = 40
"""Of each kind; the rest is counted and stays in ``dataset.json``."""

_PAGE = Path(__file__).parent / "report_page"
_PICTURES_BYTES = 9 * 1024 * 1024
_SHEET_BYTES = 2 * 1024 * 1024
_SHEET_PX = (1600, 12000)
_DIRECTIONS = {
    "face_distance": "↓",
    "faceless": "↓",
    "clip_score": "↑",
    "image_similarity": "↑",
    "diversity": "↑",
    "copying": "↓",
    "gap_closed": "↑",
}
_NO_SCORES = ("copying_yardstick",)  # what a score is made with
_NAMES = {"num_pictures": "pictures", "clip_score": "CLIP score"}
_ONCE = ("resume=", "run_dir=", "check=")  # overrides that belong to one run only
_PACKAGES = ("torch", "lightning", "diffusers", "transformers", "peft", "torchmetrics")


def write_html_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder, whole or not at all.

    Every part is optional: what the folder does not hold is said on the page. A file that is there
    but cannot be read is named on the page.

    Args:
        run: The run folder.

    Returns:
        The page, one file under 15 MiB.
    """
    path = run / FILE_NAME
    page = _render(_facts(run))
    # names of files that are no Unicode hold lone surrogates
    files.write_text(path, page.encode("utf-8", "backslashreplace").decode("utf-8"))
    return path


def _render(facts: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # bokeh refers backwards
    scripts = [(_PAGE / "page.js").read_text(encoding="utf-8")]
    if facts["charts"]:
        scripts.insert(0, library_script())
    return environment.get_template("page.html").render(
        **facts,
        style=Markup((_PAGE / "page.css").read_text(encoding="utf-8")),  # ours, as the scripts
        scripts=[Markup(script) for script in scripts],
        script_hashes=[_script_hash(script) for script in scripts],
    )


def _script_hash(script: str) -> str:
    """As a content security policy names it: no other script runs on the page."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _facts(run: Path) -> dict[str, Any]:
    notes: list[str] = []
    stored = _json(run, "config.json", notes)
    config = _mapping(stored.get("config"))
    report = _json(run, "report.json", notes)
    dataset = _sheet(_json(run, "dataset.json", notes))
    best = _json(run, "best/scores.json", notes).get("step")
    lines = _metrics(run, notes)
    last = max((line["step"] for line in lines), default=None)
    gallery = read_gallery(run / "samples", last, _PICTURES_BYTES)
    return {
        "title": str(_at(config, "export.name") or run.resolve().name),
        "head": _head(config, dataset, best, last),
        "table": _score_table(report),
        "rows": gallery.rows,
        "steps": gallery.steps,
        "best": best,
        "charts": charts(lines, best),
        "scored": scored_steps(lines),
        "dataset": dataset,
        "findings": _findings(dataset),
        "shown_findings": SHOWN_FINDINGS,
        "contact_sheet": _contact_sheet(run, notes),
        "command": _command(run, notes),
        "config": json.dumps(config, indent=2, ensure_ascii=False) if config else None,
        "hashes": _mapping(stored.get("hashes")),
        "versions": _versions(),
        "notes": notes + gallery.notes,
    }


def _json(run: Path, name: str, notes: list[str]) -> dict[str, Any]:
    path = run / name
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"{name} cannot be read ({error}).")
        return {}
    return _mapping(value)


def _sheet(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of ``dataset.json``, in the shapes that the page expects."""
    shown: dict[str, Any] = {
        name: found for name in ("counts", "faces") if (found := _mapping(dataset.get(name)))
    }
    for name, kind in (("buckets", dict), ("findings", dict), ("notes", str)):
        listed = dataset.get(name)
        if isinstance(listed, list):
            shown[name] = [entry for entry in listed if isinstance(entry, kind)]
    return shown


def _metrics(run: Path, notes: list[str]) -> list[dict[str, Any]]:
    try:
        lines = read_metrics(run / "metrics.jsonl")
    except (OSError, ValueError) as error:
        notes.append(f"metrics.jsonl cannot be read ({error}).")
        return []
    return [line for line in lines if isinstance(line.get("step"), int)]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = _mapping(value).get(part)
    return value


def _head(
    config: Mapping[str, Any], dataset: Mapping[str, Any], best: Any, last: int | None
) -> list[tuple[str, str]]:
    """What was trained on what, as (name, value); without what is not known."""
    counts = _mapping(dataset.get("counts"))
    asked = _at(config, "trainer.max_steps")
    roots = [_at(config, "data.root")] + [
        _mapping(root).get("path", root) for root in _at(config, "data.roots") or []
    ]
    steps = None if last is None and asked is None else f"{last if last is not None else 0}"
    if steps is not None and asked is not None and asked != last:
        steps += f" of {asked}"
    rows = {
        "Base": _at(config, "model.path"),
        "Pictures": counts.get("pictures"),
        "From": ", ".join(str(root) for root in roots if root),
        "Resolution": _at(config, "data.resolution"),
        "Rank": _at(config, "lora.r"),
        "Batch": _at(config, "data.batch_size"),
        "UNet rate": _at(config, "optim.unet_lr"),
        "Text encoder rate": _at(config, "optim.text_encoder_lr"),
        "Steps": steps,
        "Best step": best,
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _score_table(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Columns with their arrows, and rows of ``(text, change against the base, better)``."""
    scores = {name: _mapping(row) for name, row in _mapping(report.get("scores")).items()}
    if not scores:
        return None
    base = next(iter(scores.values()))
    closed = _mapping(report.get("gap_closed"))
    shown = {name: {**row, "gap_closed": closed.get(name)} for name, row in scores.items()}
    if first := next(iter(shown), None):
        shown[first]["gap_closed"] = None
    floor = _mapping(report.get("real_pictures"))
    if floor:
        shown["real pictures"] = floor
    keys = [
        key
        for key in dict.fromkeys(key for row in shown.values() for key in row)
        if key not in _NO_SCORES and any(_is_number(row.get(key)) for row in shown.values())
    ]
    return {
        "columns": [(_NAMES.get(key, key.replace("_", " ")), _DIRECTIONS.get(key)) for key in keys],
        "rows": [
            (
                name,
                [_cell(key, row, None if row is floor else base.get(key)) for key in keys],
            )
            for name, row in shown.items()
        ],
        "reasons": [
            f"{name}: no {score.replace('_', ' ')} ({reason})"
            for name, row in shown.items()
            for score, reason in _mapping(row.get("reasons")).items()
        ],
    }


def _cell(key: str, row: Mapping[str, Any], base: Any) -> tuple[str, str, str]:
    value: Any = row.get(key)
    if not _is_number(value):
        return "–", "", ""
    if key == "gap_closed":
        return f"{value:.0%}", "", ""
    digits = 0 if isinstance(value, int) else 3 if abs(value) < 10 else 1
    text = f"{value:.{digits}f}"
    match _mapping(row.get("intervals")).get(key):
        case [low, high] if low < high:
            text += f" ± {(high - low) / 2:.{digits}f}"
    arrow = _DIRECTIONS.get(key)
    if arrow is None or not _is_number(base) or value == base:
        return text, "", ""
    better = (value > base) == (arrow == "↑")
    return text, f"{value - base:+.{digits}f}", "better" if better else "worse"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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


def _command(run: Path, notes: list[str]) -> str | None:
    import yaml

    path = run / ".hydra" / "overrides.yaml"
    if not path.is_file():
        return None
    try:
        overrides = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (ValueError, yaml.YAMLError) as error:
        notes.append(f".hydra/overrides.yaml cannot be read ({error}).")
        return None
    kept = [str(override) for override in overrides if not str(override).startswith(_ONCE)]
    return shlex.join(["python", "train.py", *kept])


def _versions() -> dict[str, str]:
    """Of the program that writes the page."""
    versions = {"sdlora": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
