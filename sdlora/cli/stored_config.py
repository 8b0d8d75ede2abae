"""A stored config, laid under what a command line gives."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from sdlora.config.epochs import EPOCH_KEYS
from sdlora.config.keys import ANY_NAME, all_keys, flat, schema_key
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig

GROUP_KEYS = {"optimizer": "optim"}
"""Group -> its key, if the names differ."""

OVERLAYS = ("experiment", "debug")
"""Groups that set keys of other groups, so that precedence would be unclear."""


def laid_under(
    composed: DictConfig,
    stored: Mapping[str, Any],
    arguments: Sequence[str],
    origin: str,
    made_with: str = "of another version",
) -> DictConfig:
    """The stored config, with what the command line gives over it.

    A group on the command line (``optimizer=prodigy``) replaces the whole stored group; keys that
    an older stored config lacks keep the values of ``conf/``. Stored values are plain data:
    ``${...}`` in one stays text.

    Args:
        composed: The config as composed without the stored one; it is changed.
        stored: Plain values by key.
        arguments: The command line's overrides.
        origin: What the config was stored in, for messages, such as ``resume=FOLDER``.
        made_with: The version of sdlora that stored it, if it is known.

    Raises:
        ConfigError: If it has unknown keys, or an overlay is given.
    """
    if unknown := _unknown_keys(stored):
        raise ConfigError(
            f"{origin}: made with sdlora {made_with}, whose config has keys that are unknown "
            f"here: {', '.join(unknown)}; repeat it with that version"
        )
    given = given_keys(arguments)
    for item, key in zip(arguments, given, strict=True):
        if key in OVERLAYS and not item.endswith("=null"):
            raise ConfigError(f"{item}: an overlay under {origin}; give its keys instead")
    taken = taken_groups(given)
    values = {key: copy.deepcopy(OmegaConf.select(composed, key)) for key in given if "." in key}
    plain = literal({name: value for name, value in stored.items() if name not in taken})
    with open_dict(composed):
        for name, value in plain.items():
            OmegaConf.update(composed, name, value)
        for key, value in {**dict(_open_values(plain)), **values}.items():
            OmegaConf.update(composed, key, value, merge=False)
        for in_epochs, in_steps in EPOCH_KEYS.items():  # what is given counts, in whichever unit
            if in_steps in given and in_epochs not in given:
                OmegaConf.update(composed, in_epochs, None)
    return composed


def given_keys(arguments: Sequence[str]) -> list[str]:
    """The key of each override."""
    return [item.partition("=")[0].lstrip("+~") for item in arguments]


def taken_groups(keys: Sequence[str]) -> set[str]:
    """Groups, and keys of the root, that the command line gives whole."""
    return {GROUP_KEYS.get(key, key) for key in keys if "." not in key}


def literal(value: Any) -> Any:
    """Plain data for OmegaConf, in which ``${...}`` is text and no interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", value)
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}
    return [literal(item) for item in value] if isinstance(value, list) else value


def _unknown_keys(stored: Mapping[str, Any]) -> list[str]:
    known = all_keys(TrainConfig)
    open_keys = tuple(f"{key}." for key, kind in known.items() if kind == "dict")
    names = {key: schema_key(key, known) for key in flat(stored)}
    return [
        key
        for key, name in names.items()
        if (name not in known or name.endswith(ANY_NAME)) and not name.startswith(open_keys)
    ]


def _open_values(stored: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What of a stored config is a mapping of any keys, such as options; it is taken whole."""
    known = all_keys(TrainConfig)
    for name, value in stored.items():
        if known.get(schema_key(prefix + name, known)) == "dict":
            yield prefix + name, value
        elif isinstance(value, Mapping):
            yield from _open_values(value, f"{prefix}{name}.")
