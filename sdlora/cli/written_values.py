"""Values of the command line as people write them: quotes for Hydra and the shell, and ``~``."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

_OVERRIDE = re.compile(r"([+~]*[\w./@-]+)=(.*)", re.DOTALL)
_HOME = re.compile(r"(['\"]?)~(?=[/\\'\"]|$)")
_CALL = re.compile(r"[a-z_]+\(")  # choice(1,2), range(1,3)
_FLAT_LIST = re.compile(r"\[([^\[\]{}'\"]*)\]", re.DOTALL)


def readable(arguments: Sequence[str], *, is_sweep: bool) -> list[str]:
    """Quote values that Hydra's grammar has no letters for, and expand ``~`` at their beginning.

    ``data.root=/photos/été (1)`` is meant as it stands; Hydra takes no letters but ASCII's, and no
    ``=``, ``'`` or brackets within a value. What begins with a quote or bracket, and has another
    fault, is left for Hydra's message.

    Args:
        arguments: The command line.
        is_sweep: Whether commas divide the values of several runs.
    """
    return [_readable(argument, is_sweep) for argument in arguments]


def quoted(value: str) -> str:
    """A value for the command line, quoted if Hydra would parse it otherwise."""
    if re.fullmatch(r"[\w./:-]+", value, re.ASCII):
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)  # Hydra halves backslashes before a quote only
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"


def as_typed(value: Any) -> str:
    """A plain value as it is typed on the command line; ``None`` in a mapping is left out."""
    if isinstance(value, Mapping):
        known = {key: each for key, each in value.items() if each is not None}
        return "{" + ",".join(f"{key}:{as_typed(each)}" for key, each in known.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_typed, value)) + "]"
    if isinstance(value, str):
        return quoted(value)
    return "null" if value is None else str(value).lower()


def for_shell(key: str, value: str) -> str:
    """``key=value``, with the value as one text, as it is typed in bash."""
    written = f"{key}={quoted(value)}"
    return shlex.quote(written) if re.search(r'[$"`\\!]', written) else f'"{written}"'


def _readable(argument: str, is_sweep: bool) -> str:
    found = _OVERRIDE.fullmatch(argument)
    if found is None or argument.startswith("-"):
        return argument
    key, value = found[1], _at_home(found[2])
    if value.startswith(("'", '"', "{")) or _CALL.match(value) or _is_read(f"{key}={value}"):
        return f"{key}={value}"
    if items := _FLAT_LIST.fullmatch(value):
        return f"{key}=[{','.join(_items(items[1]))}]"
    if value.startswith("["):
        return f"{key}={value}"
    return f"{key}={','.join(_items(value)) if is_sweep else quoted(value)}"


def _at_home(value: str) -> str:
    """A value that begins with ``~`` as one that begins with the user's folder."""
    found = _HOME.match(value)
    if found is None:
        return value
    quote, rest = found[1], value[found.end() :]
    home = os.path.expanduser("~")
    return f"{quote}{home}{rest}" if quote else quoted(f"{home}{rest}")


def _items(text: str) -> list[str]:
    """The values between commas, each as it is or quoted."""
    items = [item.strip() for item in text.split(",")]
    return [item if _is_read(f"x={item}") else quoted(item) for item in items]


def _is_read(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True
