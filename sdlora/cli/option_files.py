"""Config files that a config was composed from: which one gives a key, and its value there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException


def file_that_gives(key: str) -> str | None:
    """The chosen option file that holds a key of the composed config; ``None``: not known."""
    if not HydraConfig.initialized():
        return None
    job = HydraConfig.get()
    given: Any = OmegaConf.to_container(job.overrides.task, resolve=False)  # ${...} stays
    if any(str(item).lstrip("+~").startswith((f"{key}=", f"{key}.")) for item in given):
        return None
    group = key.partition(".")[0]
    file = f"{group}/{job.runtime.choices.get(group)}"
    return None if _value_in(file, key, searched()) is None else file


def searched() -> list[Path]:
    """The folders that Hydra composed the config from, those of ``--config-dir`` included."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return [Path(each.path) for each in sources if each.schema == "file"]


def as_given(
    key: str, arguments: Sequence[str], file: str | None, folders: Sequence[Path]
) -> tuple[str, str | None]:
    """The key with its value as written on the command line or in the file."""
    if file is not None:
        return key, _value_in(file, key, folders)
    for argument in reversed(arguments):
        given, equals, value = argument.lstrip("+~").partition("=")
        if given == key or given.startswith(f"{key}."):
            return given, value if equals else None
    return key, None


def _value_in(file: str, key: str, folders: Sequence[Path]) -> str | None:
    names = key.split(".")
    for folder in folders:
        path = folder / f"{file}.yaml"
        if not path.is_file():
            continue
        try:
            content = _as_it_stands(path)
        except (OmegaConfBaseException, yaml.YAMLError):
            return None
        for start in range(len(names)):  # the file's own package is not part of its keys
            value: Any = content
            for name in names[start:]:
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                return str(value)
    return None


def _as_it_stands(path: Path) -> Any:
    """The content of a config file; an interpolation refers to other files and stays."""
    return OmegaConf.to_container(OmegaConf.load(path), resolve=False)


def has_group(group: str, name: str, folders: Sequence[Path]) -> bool:
    """Whether an option file of a group has a group of this name in it."""
    files = [path for folder in folders for path in (folder / group).glob("*.yaml")]
    return any(isinstance(_as_it_stands(path).get(name), dict) for path in files)


def groups_in(folders: Sequence[Path]) -> set[str]:
    """Names of all groups."""
    return {p.name for folder in folders if folder.is_dir() for p in folder.iterdir() if p.is_dir()}
