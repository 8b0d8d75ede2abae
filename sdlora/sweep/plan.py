"""The plan of a sweep: its cells and their folders, and ``sweep.yaml``."""

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sdlora.config.rules import ConfigError
from sdlora.runtime.files import write_text
from sdlora.runtime.foreign_yaml import read_yaml

FILE_NAME = "sweep.yaml"
STUDY = "study.journal"
"""File of a search's study, beside ``sweep.yaml``."""

VERSION = 1
"""Version of ``sweep.yaml``."""

LONGEST_NAME = 100
"""Longest folder name; longer ones are cut and get a hash."""


@dataclass(frozen=True, slots=True)
class SweptKey:
    """A key that differs between cells.

    Attributes:
        key: Its name in the config.
        element: Its name on the command line, with ``+`` or ``++`` if given.
        texts: Its values as typed.
        values: The same values as numbers, lists, ...
    """

    key: str
    element: str
    texts: Sequence[str]
    values: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep.

    Attributes:
        number: Number from 0, in the order of the command.
        folder: Name of its run folder.
        overrides: Swept key -> its value here.
        arguments: The same as typed.
    """

    number: int
    folder: str
    overrides: Mapping[str, Any]
    arguments: Sequence[str]


def cells(swept: Sequence[SweptKey]) -> list[Cell]:
    """Every combination of the swept values, the last key varying fastest; equal ones once."""
    found: dict[str, Cell] = {}
    for choice in itertools.product(*(zip(key.texts, key.values, strict=True) for key in swept)):
        typed = list(zip(swept, choice, strict=True))
        folder = folder_name(",".join(f"{key.key}={text}" for key, (text, _) in typed) or "run")
        if folder not in found:
            found[folder] = Cell(
                number=len(found),
                folder=folder,
                overrides={key.key: value for key, (_, value) in typed},
                arguments=[f"{key.element}={text}" for key, (text, _) in typed],
            )
    return list(found.values())


def sweep_name(swept: Sequence[SweptKey], shared: Sequence[str]) -> str:
    """A folder name that is a function of the command, whatever the order of its overrides."""
    given = [f"{key.element}={','.join(key.texts)}" for key in swept]
    keys = ",".join(key.key for key in swept) or "run"
    return f"{folder_name(keys)}-{_short_hash(chr(10).join(sorted([*given, *shared])))}"


def folder_name(text: str) -> str:
    """``text`` if that is a valid folder name on every system; else its valid part and a hash."""
    safe = re.sub(r"[^\w.,=+-]", "_", text)[:LONGEST_NAME].rstrip(".")
    return safe if safe == text else f"{safe}-{_short_hash(text)}"


def write_sweep(
    folder: Path,
    name: str,
    command: Sequence[str],
    swept: Sequence[SweptKey],
    shared: Sequence[str],
    cells: Sequence[Cell],
    num_cells: int | None = None,
) -> None:
    """Write ``sweep.yaml``, unless the folder holds cells with other shared settings.

    Args:
        folder: Folder of the sweep.
        name: Name of the sweep.
        command: The overrides as typed.
        swept: Keys and values.
        shared: Overrides of all cells.
        cells: In the order of their numbers.
        num_cells: Final number of cells, of which a search does not know all values yet.

    Raises:
        ConfigError: If the folder holds a sweep whose cells are not comparable with these.
    """
    _refuse_other_settings(folder, name, shared)
    entries = [
        {"number": cell.number, "folder": cell.folder, "overrides": dict(cell.overrides)}
        for cell in cells
    ]
    content = {
        "version": VERSION,
        "name": name,
        "command": list(command),
        "swept": {key.key: list(key.values) for key in swept},
        "shared": list(shared),
        "num_cells": len(entries) if num_cells is None else num_cells,
        "cells": entries,
    }
    write_text(folder / FILE_NAME, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def refuse_other_kind(folder: Path, is_search: bool) -> None:
    """Raise an error for a search in the folder of a grid, or the other way round.

    Raises:
        ConfigError: Naming the folder.
    """
    if (folder / FILE_NAME).is_file() and (folder / STUDY).is_file() != is_search:
        kinds = ("grid", "search") if is_search else ("search", "grid")
        raise ConfigError(
            f"sweep.name={folder.name}: {folder} holds a {kinds[0]}, this is a {kinds[1]}; choose "
            "another name or hydra.sweep.dir"
        )


@dataclass(frozen=True, slots=True)
class Planned:
    """The size of a sweep.

    Attributes:
        folders: Run folders of the cells that ``sweep.yaml`` lists.
        num_cells: Final number of cells.
    """

    folders: Sequence[Path]
    num_cells: int


def read_planned(folder: Path) -> Planned:
    """The cells of a sweep's folder, as ``sweep.yaml`` lists them."""
    content = read_yaml(folder / FILE_NAME)
    folders = [folder / entry["folder"] for entry in content["cells"]]
    return Planned(folders, int(content.get("num_cells", len(folders))))


def _refuse_other_settings(folder: Path, name: str, shared: Sequence[str]) -> None:
    before = _shared_before(folder)
    if before is not None and sorted(before) != sorted(shared):
        listing = "".join(f"\n  {item}" for item in sorted(set(before) ^ set(shared)))
        raise ConfigError(
            f"sweep.name={name}: {folder} holds a sweep whose runs share other settings, which are "
            "not comparable with these; choose another name or hydra.sweep.dir. Overrides of only "
            f"one of them:{listing}"
        )


def _shared_before(folder: Path) -> list[str] | None:
    try:
        content = read_yaml(folder / FILE_NAME)
        return [str(item) for item in content["shared"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
