"""The training pictures on a page: data sheet, findings, contact sheets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlora.data.sheet.sheet_output import FILE_NAME as DATA_SHEET
from sdlora.reports.thumbnails import Thumbnail, Thumbnails
from sdlora.runs.partial_files import mapping, read_mapping

SHOWN_FINDINGS = 40
"""Number of listed findings of each kind; ``dataset.json`` has all."""

CONTACT_SHEET = "contact_sheet.png"

_SHEET_BYTES = 2 * 1024 * 1024
_SHEET_PX = (1600, 12000)


def read_sheet(run: Path, notes: list[str]) -> dict[str, Any]:
    """The values of ``dataset.json`` on the page, in the expected shapes."""
    dataset = read_mapping(run, DATA_SHEET, notes)
    shown: dict[str, Any] = {
        name: found for name in ("counts", "faces") if (found := mapping(dataset.get(name)))
    }
    lists = (("buckets", dict), ("findings", dict), ("notes", str), ("pictures", dict))
    for name, kind in (*lists, ("held_out", str)):
        listed = dataset.get(name)
        if isinstance(listed, list):
            shown[name] = [entry for entry in listed if isinstance(entry, kind)]
    return shown


def findings_by_kind(dataset: Mapping[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Findings by severity and kind, errors first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for finding in dataset.get("findings", []):
        key = str(finding.get("severity", "")), str(finding.get("kind", "")).replace("_", " ")
        groups.setdefault(key, []).append(finding)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0] != "error", item[0])))


def contact_sheet(
    run: Path, thumbnails: Thumbnails, notes: list[str], name: str = CONTACT_SHEET
) -> Thumbnail | None:
    """A contact sheet of the folder, reduced until it is small enough; ``None`` without one."""
    path = run / name
    if not path.is_file():
        return None
    width, height = _SHEET_PX
    while True:
        try:
            made = thumbnails.of(path, width, height)
        except OSError as error:
            notes.append(f"{name} cannot be read ({error}).")
            return None
        if len(made.uri) <= _SHEET_BYTES:
            return made
        width, height = width * 3 // 4, height * 3 // 4
