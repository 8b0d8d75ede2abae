"""Dotted keys of a schema, and the known key nearest to a mistyped one.

A group may hold further groups with free names: a field that maps names to a dataclass, such as
``LoraConfig.parts``. Files and the command line write such a name in the group itself
(``lora.unet.r``); keys of a schema have ``PART`` instead (``lora.PART.r``).
"""

import difflib
from collections.abc import Container, Iterator, Mapping
from dataclasses import Field, asdict, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

ANY_NAME = "PART"

BEHIND_OTHERS = "model.recommended."
"""Keys that give others their values: of two equal names, theirs is not the one that is meant."""


def groups_by_name(schema: Any) -> tuple[str, Any] | None:
    """The field of a schema that maps free names to groups, and the dataclass of those groups."""
    for name, kind in get_type_hints(schema).items():
        if get_origin(kind) is dict and is_dataclass(get_args(kind)[1]):
            return name, get_args(kind)[1]
    return None


def open_groups(schema: Any) -> dict[str, tuple[str, Any]]:
    """The groups of a whole config that hold further groups, with what ``groups_by_name`` gives."""
    kinds = {name: kind for name, kind in get_type_hints(schema).items() if is_dataclass(kind)}
    found = {name: groups_by_name(kind) for name, kind in kinds.items()}
    return {name: named for name, named in found.items() if named is not None}


def as_written(config: Any) -> dict[str, Any]:
    """A whole config with the keys of files and of the command line."""
    values = asdict(config)
    for group, (field, _) in open_groups(type(config)).items():
        values[group] |= values[group].pop(field)
    return values


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def all_fields(schema: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """Every dotted key of a schema, groups included, with its field and its type."""
    hints = get_type_hints(schema)
    named = groups_by_name(schema)
    for item in fields(schema):
        name, kind = item.name, hints[item.name]
        if named is not None and name == named[0]:
            name, kind = ANY_NAME, named[1]
        yield prefix + name, item, kind
        if isinstance(kind, type) and is_dataclass(kind):
            yield from all_fields(kind, f"{prefix}{name}.")


def all_keys(schema: Any) -> dict[str, str]:
    """Every dotted key of a schema with its type's name, groups included."""
    return {key: getattr(kind, "__name__", str(kind)) for key, _, kind in all_fields(schema)}


def schema_key(key: str, known: Container[str]) -> str:
    """A key in the form of ``all_keys``: ``lora.unet.r`` is ``lora.PART.r``."""
    names = key.split(".")
    for index in range(len(names)):
        is_free = ".".join([*names[:index], ANY_NAME]) in known
        if is_free and ".".join(names[: index + 1]) not in known:
            names[index] = ANY_NAME
    return ".".join(names)


def nearest_key(key: str, schema: Any) -> str | None:
    """The known key most like ``key``, or ``None`` if none is like it."""
    keys = all_keys(schema)
    for group, (field, _) in open_groups(schema).items():  # the schema's name of lora.unet.r
        shorter = key.replace(f"{group}.{field}.", f"{group}.", 1)
        if shorter != key and schema_key(shorter, keys) in keys:
            return shorter
    written = schema_key(key, keys)
    if written.endswith(ANY_NAME):  # a value where a group would be: no name of one
        written = key
    meant = [name for name in keys if key.startswith("model.") or BEHIND_OTHERS not in name]
    known = [name for name in meant if not name.endswith(ANY_NAME)]
    leaf = key.rpartition(".")[2]
    same_group = [name for name in known if name.rpartition(".")[0] == written.rpartition(".")[0]]
    near = difflib.get_close_matches(written, same_group, n=1, cutoff=0.7)
    if near:
        return key.removesuffix(leaf) + near[0].rpartition(".")[2]
    known = [name for name in known if ANY_NAME not in name]  # which name is meant, nobody knows
    near = difflib.get_close_matches(written, known, n=1, cutoff=0.7)
    near = near or [name for name in known if name.rpartition(".")[2] == leaf]
    return near[0] if near else None
