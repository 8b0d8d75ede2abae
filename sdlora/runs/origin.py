"""Whose paths a stored config has: those of this user's own runs are followed, others are not.

A run's record and the header of its LoRA files name pictures, models and prompts. Of a stranger's
they could name any file of this machine, whose content would then be drawn, scored or trained on.
A seal with a key that only this user has tells them apart, as the trust of notebooks does.

Source:
    Jupyter, "Security in notebook documents".
"""

import hashlib
import hmac
import json
import re
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs
import yaml
from filelock import FileLock

from sdlora.cli.written_values import as_typed
from sdlora.config.rules import ConfigError
from sdlora.config.sampling import CAPTIONS
from sdlora.runs.stored_paths import PATHS
from sdlora.runtime.files import user_cache_folder, write_bytes
from sdlora.runtime.places import CONF, EMBEDDED, EXAMPLE

ORIGIN = "origin"
"""Where the seal stands in a record, and below ``sdlora.`` in a header."""

KEY_FILE = "origin.key"

_HUB_ID = re.compile(r"[\w-]+/[\w.-]+")
_NAMES = {CAPTIONS, "tiny"}


def seal(config: Mapping[str, Any]) -> str | None:
    """The seal of a config's places; ``None`` if no key can be kept here.

    Args:
        config: Plain values by key.
    """
    key = _key()
    if key is None:
        return None
    text = json.dumps(sorted(_places(config)))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def strange_places(config: Mapping[str, Any], sealed: Any) -> dict[str, str]:
    """Key -> path or id of a model, of a config that this user has not sealed; else nothing.

    What the project ships, such as ``example:portraits`` or the models of ``conf/model/``, is
    nobody's own.

    Args:
        config: Plain values by key.
        sealed: The seal beside it, as it was read.
    """
    found = dict(_places(config))
    if not found:
        return {}
    own = seal(config)
    if own is not None and isinstance(sealed, str) and hmac.compare_digest(own, sealed):
        return {}
    shipped = _shipped()
    return {key: value for key, value in found.items() if value not in shipped}


def refuse_strange(
    config: Mapping[str, Any],
    sealed: Any,
    given: Sequence[str],
    origin: str,
    groups: Sequence[str] = (),
) -> None:
    """Refuse a stored config with places that this user has neither sealed nor given again.

    Args:
        config: Plain values by key.
        sealed: The seal beside it, as it was read.
        given: Keys of the command line.
        origin: What the config was stored in, for the message, such as ``resume=FOLDER``.
        groups: Groups of the config that are read; empty: all.

    Raises:
        ConfigError: With the arguments that give them.
    """
    lacking = {
        key: value
        for key, value in strange_places(config, sealed).items()
        if (not groups or key.startswith(tuple(f"{group}." for group in groups)))
        and not any(key == each or key.startswith((f"{each}.", f"{each}[")) for each in given)
    }
    if lacking:
        whole = {key.partition("[")[0]: at(config, key.partition("[")[0]) for key in lacking}
        typed = [f"{key}={as_typed(value)}" for key, value in whole.items()]
        listed = "".join(f"\n  {shlex.quote(item)}" for item in typed)
        raise ConfigError(
            f"{origin}: was not made by you on this machine, or by an older version, so the places "
            f"that it names are not followed; give those that are right here:{listed}"
        )


def at(config: Mapping[str, Any], key: str) -> Any:
    """A value by dotted key."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def _places(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The paths and ids of a config, those of ``data.roots`` by number."""

    def walk(value: Any, key: str, shown: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for name, each in value.items():
                yield from walk(each, f"{key}.{name}".strip("."), f"{shown}.{name}".strip("."))
        elif isinstance(value, list):
            for number, each in enumerate(value):
                yield from walk(each, key, f"{shown}[{number}]")
        elif isinstance(value, str) and key in PATHS and not _is_shipped(value):
            yield shown, value

    yield from walk(config, "", "")


def _is_shipped(value: str) -> bool:
    return value.startswith((EXAMPLE, EMBEDDED)) and ".." not in value


def _shipped() -> set[str]:
    """Names that are no path, and every id of the Hub in a file of ``conf/``."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for each in value.values() if isinstance(value, dict) else value:
                yield from texts(each)

    files = CONF.rglob("*.yaml")
    found = {text for file in files for text in texts(yaml.safe_load(file.read_text("utf-8")))}
    return {text for text in found if _HUB_ID.fullmatch(text)} | _NAMES


def _key() -> bytes | None:
    """This user's key, made at the first call; ``None`` if it cannot be kept.

    It lies in the user's data folder, which the machines of a cluster share, and where that cannot
    be written, in the cache.
    """
    for folder in (lambda: Path(platformdirs.user_data_dir("sdlora")), user_cache_folder):
        with suppress(OSError, ValueError):
            file = folder() / KEY_FILE
            if not file.is_file():
                _make_key(file)
            return file.read_bytes()
    return None


def _make_key(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):  # the first runs of a sweep may come here at once
        if not file.is_file():
            write_bytes(file, secrets.token_bytes(32))
            file.chmod(0o600)
