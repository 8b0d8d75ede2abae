"""YAML files that somebody else may have written, read with a limit on what they hold."""

from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 64 * 2**20
"""Largest file: a sweep of 100,000 cells."""

MOST_VALUES = 10_000_000
"""Largest number of values, those of an alias counted at each place where it stands."""


class ForeignYamlError(ValueError):
    """A file that is damaged or too large; the message says which."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML file: plain values, lists and mappings.

    An alias costs a few bytes and stands for all that it names, so that some of them within each
    other stand for more than any memory holds.

    Raises:
        ForeignYamlError: If it is no YAML, or holds more than the limits.
        OSError: If it cannot be read.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ForeignYamlError(f"has {size} bytes, more than {MOST_BYTES}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ForeignYamlError(f"{type(error).__name__}: {error}") from error
    _require_few(content)
    return content


def _require_few(content: Any) -> None:
    """Count all values, depth first; what contains itself has no end and is stopped alike."""
    count, waiting = 0, [content]
    while waiting:
        value = waiting.pop()
        count += 1
        if count + len(waiting) > MOST_VALUES:
            raise ForeignYamlError(f"holds more than {MOST_VALUES} values, aliases followed")
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | set | tuple):
            waiting += value
