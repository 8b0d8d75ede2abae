"""Config files of a user's own, named by their path: ``experiment=path/to/mine.yaml``."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from sdlora.cli.stored_config import OVERLAYS
from sdlora.cli.written_values import quoted
from sdlora.config.rules import ConfigError

_NAMED = re.compile(rf"(\+?(?:{'|'.join(OVERLAYS)})=)(.*)", re.DOTALL)
_CHOICE = re.compile(r"""'[^']*'|"[^"]*"|[^,]+""")
_SUFFIX = ".yaml"


def with_own_files(arguments: Sequence[str]) -> list[str]:
    """Make files that overlays name by their path known to Hydra, under that path.

    Such a file needs no ``# @package`` header, and no folder of a certain name.

    Args:
        arguments: The command line; ``experiment=a.yaml,b.yaml`` names several of a sweep.

    Raises:
        ConfigError: If a path leads to no file, or to one that holds no keys.
    """
    rewritten = []
    for item in arguments:
        found = _NAMED.fullmatch(item)
        if found is None:
            rewritten.append(item)
            continue
        choices = [choice.strip("\"'") for choice in _CHOICE.findall(found[2])]
        if not any(choice.endswith(_SUFFIX) for choice in choices):
            rewritten.append(item)
            continue
        rewritten.append(found[1] + ",".join(_known(found[1], choice) for choice in choices))
    return rewritten


def _known(key: str, choice: str) -> str:
    """The choice for Hydra; a file that exists is registered."""
    path = Path(choice).expanduser()
    if not choice.endswith(_SUFFIX) or not (path.is_file() or len(path.parts) > 1):
        return quoted(choice)  # an option of conf/, which may have its suffix
    if not path.is_file():
        raise ConfigError(f"{key}{choice}: there is no such file; give the path of a YAML file")
    content = OmegaConf.load(path)
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{key}{choice}: holds no keys; write KEY: VALUE in its lines")
    place = path.resolve().as_posix()
    group = "/".join(filter(None, [key.strip("+="), *place.split("/")[:-1]]))
    store = ConfigStore.instance()
    store.store(group=group, name=path.stem, node=content, package="_global_")
    return quoted(place)
