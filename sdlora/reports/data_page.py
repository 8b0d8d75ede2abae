"""The page of a check of the data, ``data.html``: pictures as cut, captions, findings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sdlora.config.data import DataConfig
from sdlora.reports.data_part import SHOWN_FINDINGS, findings_by_kind, read_sheet
from sdlora.reports.rendering import write_page
from sdlora.reports.thumbnails import Thumbnail, data_uri
from sdlora.runs.partial_files import is_number

FILE_NAME = "data.html"

SHOWN_PICTURES = 24
"""Pictures that are not folded."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A picture of the check.

    Attributes:
        name: Its file.
        picture: As training cuts it, or whole with what is cut away dark.
        caption: A caption of it.
        facts: Size, cut and the like, as text.
        findings: What was found about it, with kind and severity.
    """

    name: str
    picture: Thumbnail
    caption: str
    facts: str
    findings: Sequence[Mapping[str, Any]]


def write_data_page(
    folder: Path, data: DataConfig, tiles: Sequence[tuple[int, Image.Image]]
) -> Path:
    """Write ``data.html`` beside ``dataset.json``, which it shows, whole or not at all.

    Args:
        folder: Folder of the check.
        data: Names the source.
        tiles: Number of a picture in the set, and how it is shown.

    Returns:
        The page, without external resources.
    """
    notes: list[str] = []
    sheet = read_sheet(folder, notes)
    found = findings_by_kind(sheet)
    pictures = _checked(sheet, tiles)
    total = len(sheet.get("pictures", []))
    errors = sum(len(group) for (severity, _), group in found.items() if severity == "error")
    warnings = sum(len(group) for (severity, _), group in found.items() if severity == "warning")
    facts = {
        "title": f"{folder.resolve().name} · check of the data",
        "head": [("From", data.named_source), ("Folder", folder.absolute().as_posix())],
        "headline": _headline(total, errors, warnings),
        "tone": "bad" if errors or not total else ("open" if warnings else "good"),
        "next_step": _next_step(errors, warnings, data.on_error),
        "dataset": sheet,
        "findings": found,
        "shown_findings": SHOWN_FINDINGS,
        "pictures": pictures,
        "shown_pictures": SHOWN_PICTURES,
        "left_out": total - len(pictures),
        "notes": notes,
    }
    return write_page(folder / FILE_NAME, "data", facts, styles=("page",))


def _headline(total: int, errors: int, warnings: int) -> str:
    if not total:
        return "No picture can be trained on."
    count = f"{total:,} picture{'s' * (total != 1)}"
    if errors:
        return f"{count} can be trained on; {_count(errors, 'error')} to correct first."
    if warnings:
        return f"{count} can be trained on; {_count(warnings, 'warning')} to look at."
    return f"{count} can be trained on; nothing wrong or odd was found."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _next_step(errors: int, warnings: int, on_error: str) -> str:
    if errors and on_error == "raise":
        return "Correct the files named below, or set data.on_error=skip to leave them out."
    if errors:
        return "The files with errors are left out (data.on_error=skip)."
    if warnings:
        return "Training can start; the files named below are worth a look."
    return "Training can start."


def _checked(sheet: Mapping[str, Any], tiles: Sequence[tuple[int, Image.Image]]) -> list[Checked]:
    """The pictures with their findings; those with findings first."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for finding in sheet.get("findings", []):
        by_name.setdefault(str(finding.get("name", "")), []).append(finding)
    rows = sheet.get("pictures", [])
    made = []
    for number, image in tiles:
        row = rows[number] if number < len(rows) else {}
        name = str(row.get("name", ""))
        picture = Thumbnail(data_uri(image), image.width, image.height)
        own = by_name.get(name, [])
        made.append(Checked(name, picture, str(row.get("caption", "")), _facts(row), own))
    return sorted(made, key=lambda each: not each.findings)


def _facts(row: Mapping[str, Any]) -> str:
    """Size and cut, and what makes a picture different from others."""
    size, cut, enlarged, repeats = (
        row.get(key) for key in ("bucket", "cut", "enlarged", "repeats")
    )
    parts = [" × ".join(map(str, size))] if isinstance(size, list) else []
    if is_number(cut) and cut >= 0.005:
        parts.append(f"{cut:.0%} cut")
    if is_number(enlarged) and enlarged > 1:
        parts.append(f"enlarged {enlarged:.2f}×")
    if is_number(repeats) and repeats > 1:
        parts.append(f"{repeats} times")
    parts += ["mask"] if row.get("has_mask") else []
    parts += ["no face"] if "face" in row and row["face"] is None else []
    return ", ".join(parts)
