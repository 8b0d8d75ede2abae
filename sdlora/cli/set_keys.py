"""Keys that were set by hand: on the command line, and in config files of the user's own."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from sdlora.cli.stored_config import OVERLAYS
from sdlora.config.keys import flat


def written_overrides(task: Any) -> list[str]:
    """Hydra's list of overrides as they were written, ``${...}`` unresolved."""
    found = OmegaConf.to_container(task, resolve=False)
    assert isinstance(found, list)
    return [str(item) for item in found]


def keys_set(arguments: Sequence[str], choices: Mapping[str, str | None]) -> list[str]:
    """The dotted keys, each once; not those of groups whose option was chosen.

    Args:
        arguments: The command line's overrides, as Hydra takes them.
        choices: Group -> its option, of which overlays may be a file of the user's own.
    """
    return list(dict.fromkeys([*_of_files(choices), *_of_arguments(arguments)]))


def _of_arguments(arguments: Sequence[str]) -> Iterator[str]:
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        if override.is_delete():
            continue
        key, value = override.key_or_group, override.value()
        if isinstance(value, Mapping) and value:
            yield from flat({str(name): item for name, item in value.items()}, f"{key}.")
        else:
            yield key


def _of_files(choices: Mapping[str, str | None]) -> Iterator[str]:
    for overlay in OVERLAYS:
        path = Path(choices.get(overlay) or "")
        if path.is_absolute() and path.is_file():
            content = OmegaConf.load(path)
            assert isinstance(content, DictConfig), "it was read before"
            plain = OmegaConf.to_container(content, resolve=False)
            assert isinstance(plain, dict)
            yield from flat({str(key): value for key, value in plain.items()})
