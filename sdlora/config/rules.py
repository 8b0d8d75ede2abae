"""Checks of single config values; their error names key, value and remedy."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class ConfigError(ValueError):
    """A config value that cannot work; the message names key, value and remedy."""


def require(ok: bool, key: str, value: object, remedy: str) -> None:
    """Raise ``ConfigError`` as ``key=value: remedy`` unless ``ok``."""
    if not ok:
        raise ConfigError(f"{key}={value}: {remedy}")


def require_choice(key: str, value: str, known: Sequence[str]) -> None:
    """Raise ``ConfigError`` with the nearest of ``known`` unless ``value`` is one of them."""
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    require(value in known, key, value, f"unknown; {hint}choices: {', '.join(known)}")


def require_rate(key: str, value: float) -> None:
    """Raise ``ConfigError`` unless ``value`` is finite and > 0."""
    require(math.isfinite(value) and value > 0, key, value, "must be a finite number > 0")


def require_count(key: str, value: int, least: int = 1) -> None:
    """Raise ``ConfigError`` unless ``value`` is at least ``least``."""
    require(value >= least, key, value, f"must be a whole number >= {least}")


def require_fraction(key: str, value: float) -> None:
    """Raise ``ConfigError`` unless ``value`` is in [0, 1)."""
    require(0 <= value < 1, key, value, "must be a number in [0, 1)")


def check_options(key: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Bind ``options`` to the factory's signature before anything is built.

    Raises:
        ConfigError: Naming the option, the nearest real one, and all of them.
    """
    known = [
        name
        for name, parameter in inspect.signature(factory).parameters.items()
        if name not in {"params", "lr", "self"} and parameter.kind != parameter.VAR_KEYWORD
    ]
    for option, value in options.items():
        try:
            require_choice(key, option, sorted(known))
        except ConfigError as error:
            _, _, remedy = str(error).partition(": ")
            raise ConfigError(f"{key}.{option}={value}: {remedy}") from None
