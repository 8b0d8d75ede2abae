"""Messages for errors of composing a config: key, value and remedy, instead of Hydra's own."""

import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdlora.cli.option_files import as_given, file_that_gives, groups_in, has_group, searched
from sdlora.cli.stored_config import OVERLAYS
from sdlora.cli.written_values import for_shell
from sdlora.config.field_words import KEY_OF
from sdlora.config.keys import ANY_NAME, all_keys, nearest_key, schema_key

KINDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "str": "must be text; put quotes around it",
    "list": "must be a list, such as [a,b]",
    "dict": "must be keys and values, such as {a:1,b:2}",
}
"""What a value of each type looks like."""

RENAMED = {("lora", "none"): "trains all weights of the denoiser, and is called lora=full"}
"""Group and name of an option that has another name now."""


def explain(
    error: BaseException, schema: type, arguments: Sequence[str], folders: Sequence[Path]
) -> str:
    """One message for an error of composition.

    Args:
        error: What Hydra or OmegaConf raised.
        schema: The dataclass of the whole config.
        arguments: The command line, to show values as they were given.
        folders: Config folders, to find groups and the values of a file.

    Returns:
        ``key=value: reason; remedy``, or the error's own first line if it names no key.
    """
    chain = _chain(error)
    for item in chain:
        if isinstance(item, MissingConfigException) and item.missing_cfg_file:
            return _missing_choice(item, folders)
        if isinstance(item, OverrideParseException):
            return _unreadable(item.override)
    if several := re.match(r"\s*Ambiguous value for argument '(.*)'", str(chain[0])):
        key, _, value = several[1].partition("=")
        return (
            f"{several[1]}: holds several values; add -m to run once with each, write "
            f"{key}=[{value}] for a list, or {for_shell(key, value)} for one text"
        )
    key = _full_key(chain)
    if key is None:
        return _first_line(chain[0]) or type(chain[0]).__name__
    text = "\n".join(map(str, chain))
    file = _file_of(text) or file_that_gives(key)
    where = f" in {file}.yaml" if file else ""
    for item in chain:
        if message := _in_list(item, schema, where):
            return message
    key, value = as_given(key, arguments, file, [*folders, *searched()])
    if lacking := re.search(r"issing mandatory value: (model\.recommended[\w.]*)", text):
        return (
            f"{lacking[1]}: has no value; begin the file of your model with defaults: [sd15], or "
            "another option of model= that it is like"
        )
    needed = re.search(r"Interpolation key '([^']+)' not found", text)
    for each in [key, *([needed[1]] if needed else [])]:
        if f"~{each}" in arguments:
            return f"{each}: is needed and cannot be removed"
    if "is not in struct" in text or re.search(r"Key '.*' not in '", text):
        return unknown_key(key, value, schema, folders, where)
    return f"{shown(key, value)}{where}: {_reason(key, chain, schema)}"


def unknown_key(
    key: str, value: object, schema: type, folders: Sequence[Path], where: str = ""
) -> str:
    """The message for a key that the schema does not have, with the nearest one that it has.

    Args:
        key: Dotted key.
        value: Its value, ``None`` if not known.
        schema: The dataclass of the whole config.
        folders: Config folders, whose sub-folders are the groups.
        where: Which file it stands in, to be put in the message.
    """
    if (overlay := key.partition(".")[0]) in OVERLAYS:
        return (
            f"{overlay}: the file sets keys below {overlay}; begin it with # @package _global_, or "
            f"name it by its path: {overlay}=FOLDER/NAME.yaml"
        )
    if key.startswith("hydra."):
        return f"{shown(key, value)}{where}: unknown key; --cfg hydra shows all of Hydra's"
    taken = groups_in(folders) & set(getattr(schema, "GROUPS", groups_in(folders)))
    groups = [] if "." in key else sorted(taken)
    near = (
        _of_the_field(key, schema, groups)
        or next(iter(get_close_matches(key, groups, n=1)), None)
        or nearest_key(key, schema)
    )
    hint = f"did you mean {near}? " if near else ""
    known = all_keys(schema)
    parent, _, name = key.rpartition(".")
    if schema_key(key, known).endswith(ANY_NAME) and has_group(parent, name, folders):
        return f"{shown(key, value)}{where}: {_is_no_value(key)}"
    inside = [each for each in known if each.rpartition(".")[0] == schema_key(parent, known)]
    names = [each.rpartition(".")[2] for each in inside]
    if parent and names:
        hint += f"{parent} has {', '.join(each for each in names if each != ANY_NAME)}"
    return f"{shown(key, value)}{where}: unknown key; {hint or '--cfg job lists all keys'}".strip()


def _of_the_field(key: str, schema: type, groups: Sequence[str]) -> str | None:
    """The key that is meant by a word of the field, such as ``lora.r`` by ``rank``."""
    parent, _, word = key.rpartition(".")
    meant = KEY_OF.get(word.casefold().replace("-", "_"))
    if meant is None:
        return None
    known = all_keys(schema)
    beside = f"{parent}.{meant.rpartition('.')[2]}"  # lora.unet.rank is lora.unet.r
    if parent and schema_key(beside, known) in known:
        return beside
    return meant if meant in groups or schema_key(meant, known) in known else None


def unknown_keys(composed: DictConfig, schema: type) -> dict[str, Any]:
    """Dotted keys of a config that its schema does not have, with their values.

    ``+key=value`` puts them there, past the schema's own check, and where names are free nothing
    else has looked at them.
    """
    known = all_keys(schema)
    found: dict[str, Any] = {}
    pending: list[tuple[str, Any]] = [("", OmegaConf.to_container(composed))]
    while pending:
        prefix, values = pending.pop()
        for leaf, value in values.items():
            key = f"{prefix}{leaf}"
            name = schema_key(key, known)
            is_group = isinstance(value, dict)
            if is_group and value and known.get(name) != "dict":
                pending.append((f"{key}.", value))
            elif name not in known or (name.endswith(ANY_NAME) and not is_group):
                found[key] = value
    return found


def shown(key: str, value: object) -> str:
    """``key=value``, or the key alone if the value is not known."""
    return key if value is None else f"{key}={value}"


def _in_list(error: BaseException, schema: type, where: str) -> str | None:
    """The message for an error inside a list of groups, which OmegaConf's keys leave out."""
    if not isinstance(error, OmegaConfBaseException) or error.full_key is None:
        return None
    for name, group in _lists_of_groups(schema).items():
        kinds, key = all_keys(group), error.full_key
        if re.fullmatch(re.escape(name) + r"\[\d+\]", key):
            needs = f"must be keys and values, such as {{{next(iter(kinds))}: ...}}"
            return f"{shown(key, error.value)}{where}: {needs}"
        if error.object_type is not group or key.startswith(f"{name}["):
            continue
        if key not in kinds:
            near = next(iter(get_close_matches(key, kinds, n=1, cutoff=0.5)), None)
            hint = f"did you mean {near}? " if near else ""
            return f"{name}: {key}{where}: unknown key; {hint}each has {', '.join(kinds)}"
        kind = kinds[key].removesuffix(" | None")
        reason = KINDS.get(kind, _first_line(error))
        return f"{name}: {shown(key, error.value)}{where}: {reason}"
    return None


def _lists_of_groups(schema: type, prefix: str = "") -> dict[str, type]:
    """Dotted keys of lists whose elements are groups, such as ``data.roots``, with the group."""
    found: dict[str, type] = {}
    for name, kind in get_type_hints(schema).items():
        elements = [part for part in get_args(kind) if isinstance(part, type)]
        if get_origin(kind) is list and elements and is_dataclass(elements[0]):
            found[f"{prefix}{name}"] = elements[0]
        elif isinstance(kind, type) and is_dataclass(kind):
            found |= _lists_of_groups(kind, f"{prefix}{name}.")
    return found


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return chain


def _first_line(error: BaseException) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), "")


def _full_key(chain: Sequence[BaseException]) -> str | None:
    keys = (getattr(item, "full_key", None) for item in reversed(chain))
    return next((str(key) for key in keys if key), None)


def _file_of(text: str) -> str | None:
    """The config file that Hydra was reading, such as ``lora/mine``; ``None``: the command line."""
    found = re.search(r"In '([^']+)': \w+ raised while composing config", text)
    return found[1] if found else None


def _missing_choice(error: MissingConfigException, folders: Sequence[Path]) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = list(error.options or [])
    if not group:
        return f"{name}: no such config file in {', '.join(map(str, folders))}"
    if not options:
        near = get_close_matches(group, groups_in(folders), n=1)
        hint = f"did you mean {near[0]}?" if near else "--help lists the groups"
        return f"{group}={name}: there is no group {group}; {hint}"
    if (group, name) in RENAMED:
        return f"{group}={name}: {RENAMED[group, name]}"
    near = get_close_matches(name, options, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{group}={name}: unknown; {hint}choices: {', '.join(options)}"


def _unreadable(override: str) -> str:
    if "=" not in override:
        return f"{override}: is not KEY=VALUE; write {override}=VALUE"
    key, _, value = override.partition("=")
    return (
        f"{override}: cannot be read as KEY=VALUE; close every bracket and quote, or, if all of it "
        f"is one text, write {for_shell(key, value)}"
    )


def _is_no_value(key: str) -> str:
    return f"is a group of keys, not one value; set {key}.KEY=VALUE"


def _reason(key: str, chain: Sequence[BaseException], schema: type) -> str:
    own = next((item for item in reversed(chain) if isinstance(item, OmegaConfBaseException)), None)
    message = _first_line(own or chain[0])
    known = all_keys(schema)
    kind = known.get(schema_key(key, known), "").removesuffix(" | None")
    if "nterpolation" in message or "resolver" in message:
        return f"{message}; write a value, or ${{KEY}} of a key that exists"
    if "issing mandatory value" in message:
        return f"has no value; set it with {key}=VALUE"
    if kind in KINDS:
        return KINDS[kind]
    if kind:
        return _is_no_value(key)
    return message
