"""The command that made a folder, and the versions."""

import platform
import shlex
from importlib import metadata
from pathlib import Path

from sdlora import __version__

_ONCE = ("resume=", "run_dir=", "check=")  # overrides that belong to one run only
_PACKAGES = ("torch", "lightning", "diffusers", "transformers", "peft", "torchmetrics")


def command(run: Path, door: str, notes: list[str]) -> str | None:
    """The command that made a folder, without overrides of that one run; None if unknown.

    Args:
        run: The folder.
        door: ``train`` or ``evaluate``.
        notes: Gets what cannot be read.
    """
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
    return shlex.join(["sdlora", door, *kept])


def versions() -> dict[str, str]:
    """Versions of the program that writes the page."""
    found = {"sdlora": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
