"""Dotted keys of a schema, and the one that was meant by a typo."""

import difflib
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def all_keys(schema: Any, prefix: str = "") -> dict[str, str]:
    """Every dotted key of a schema with its type's name, groups included."""
    hints = get_type_hints(schema)
    keys: dict[str, str] = {}
    for item in fields(schema):
        kind = hints[item.name]
        keys[prefix + item.name] = getattr(kind, "__name__", str(kind))
        if isinstance(kind, type) and is_dataclass(kind):
            keys |= all_keys(kind, f"{prefix}{item.name}.")
    return keys


def nearest_key(key: str, schema: Any) -> str | None:
    """The known key most like ``key``, or ``None`` if none is like it."""
    known = list(all_keys(schema))
    leaf = key.rpartition(".")[2]
    same_group = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
    for candidates, wanted in ((same_group, key), (known, key)):
        near = difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.7)
        if near:
            return near[0]
    near = [name for name in known if name.rpartition(".")[2] == leaf]
    return near[0] if near else None
