"""Where the project's own files lie: in a checkout beside the package, once installed inside it."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

ASSETS = PACKAGE / "assets"
"""The shipped models and scorers."""


def shipped(name: str) -> Path:
    """A folder of the project's, such as ``conf`` or ``examples``."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


CONF = shipped("conf")
"""The config's values."""
