"""Locations of the project's own files and of a user's, as they are typed."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

ASSETS = PACKAGE / "assets"
"""The shipped models and scorers."""

EXAMPLE = "example:"
"""Prefix of paths of the shipped examples, such as ``example:portraits``."""

EMBEDDED = "embedded:"
"""Prefix of paths of folders in the shipped assets."""

RUN_CONFIG = "config.json"
"""File with the config of a run, in its folder."""


def shipped(name: str) -> Path:
    """Path of a folder of the project, such as ``conf`` or ``examples``."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def located(path: str) -> Path:
    """Resolve a path of the config: a shipped example, or relative to the working folder."""
    if path.startswith(EXAMPLE):
        return shipped("examples") / path.removeprefix(EXAMPLE)
    return Path(path).expanduser()


def from_here(path: Path) -> str:
    """A path as typed: relative if it is below the working folder, else absolute."""
    try:
        shown = Path(os.path.relpath(path))
    except ValueError:  # another drive
        return path.as_posix()
    return path.absolute().as_posix() if ".." in shown.parts else shown.as_posix()


CONF = shipped("conf")
"""Folder of the config files."""
