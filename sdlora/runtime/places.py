"""Where the project's own files lie: in a checkout beside the package, once installed inside it."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

ASSETS = PACKAGE / "assets"
"""The shipped models and scorers."""

EXAMPLE = "example:"
"""A path that begins so names one of the shipped examples, such as ``example:portraits``."""


def shipped(name: str) -> Path:
    """A folder of the project's, such as ``conf`` or ``examples``."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def located(path: str) -> Path:
    """Where a path of the config lies: among the examples, or as seen from the working folder."""
    if path.startswith(EXAMPLE):
        return shipped("examples") / path.removeprefix(EXAMPLE)
    return Path(path).expanduser()


CONF = shipped("conf")
"""The config's values."""
