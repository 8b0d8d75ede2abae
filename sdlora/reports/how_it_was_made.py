"""The command that made a folder, and the versions."""

import platform
import shlex
from importlib import metadata
from pathlib import Path

from sdlora import __version__
from sdlora.runs.run_config import read_given

_ONCE = ("resume=", "run_dir=", "check=")  # overrides that belong to one run only
_PACKAGES = ("torch", "lightning", "diffusers", "transformers", "peft", "torchmetrics")


def command(run: Path, door: str, notes: list[str]) -> str | None:
    """The command that made a folder, without overrides of that one run; None if unknown.

    Of several overrides of one key, by the starts of a run, the last counts.

    Args:
        run: The folder.
        door: ``train`` or ``evaluate``.
        notes: Gets what cannot be read.
    """
    starts = read_given(run) or _given_to_hydra(run, notes)
    if not starts:
        return None
    overrides = {item.partition("=")[0]: item for start in starts for item in start}
    kept = [item for item in overrides.values() if not item.startswith(_ONCE)]
    return shlex.join(["sdlora", door, *kept])


def _given_to_hydra(run: Path, notes: list[str]) -> list[list[str]]:
    """The overrides of an evaluation, and of a run of an older version."""
    import yaml

    path = run / ".hydra" / "overrides.yaml"
    if not path.is_file():
        return []
    try:
        return [[str(item) for item in yaml.safe_load(path.read_text(encoding="utf-8")) or []]]
    except (ValueError, TypeError, yaml.YAMLError) as error:
        notes.append(f".hydra/overrides.yaml cannot be read ({error}).")
        return []


def versions() -> dict[str, str]:
    """Versions of the program that writes the page."""
    found = {"sdlora": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
