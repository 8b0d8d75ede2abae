"""Tolerant reading of files that a killed run or another program left; faults become notes."""

import json
import math
from pathlib import Path
from typing import Any, TypeGuard


def read_mapping(folder: Path, name: str, notes: list[str]) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none or it has another shape.

    Args:
        folder: Folder of the file.
        name: Of the file, relative to the folder.
        notes: Gets the reason if it cannot be read; a missing file gives no note.
    """
    path = folder / name
    if not path.is_file():
        return {}
    try:
        return mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        notes.append(f"{name} cannot be read ({error}).")
        return {}


def mapping(value: Any) -> dict[str, Any]:
    """The value, if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def inside(folder: Path, name: Any) -> Path | None:
    """The path of a name from one of a folder's own files; None if it lies outside the folder."""
    if not isinstance(name, str) or "\0" in name:
        return None
    path = folder / name
    return path if path.resolve().is_relative_to(folder.resolve()) else None
