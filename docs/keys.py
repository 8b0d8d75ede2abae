"""``python docs/keys.py``: writes docs/keys.md, every key with meaning, type and value."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from sdlora.cli.composition import register_schemas
from sdlora.config.effect import Alternatives, declared_conditions, described
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.keys import ANY_NAME, groups_by_name
from sdlora.config.train import TrainConfig
from sdlora.runtime.files import write_text
from sdlora.runtime.places import CONF

PAGE = Path(__file__).with_suffix(".md")

Conditions = Mapping[str, tuple[Alternatives, ...]]
"""Of each key, where it has an effect."""

HEAD = """# Every key

Written by `python docs/keys.py` from the schema in `sdlora/config/` and the values in `conf/`; a
test holds it current. A value is what `python train.py` alone uses, and `${KEY}` that of another
key, such as one that suits the model; `python train.py --cfg job --resolve` prints those of a
command. `PART` is a part of the model, such as `unet` or `text_encoder`. Where *Only with* is not
met, the key has no effect, and a note says so when it is set.
"""


def page() -> str:
    """The whole page."""
    sections = [HEAD, *_sections("train.py", "train", TrainConfig)]
    sections += _sections("evaluate.py", "evaluate", EvaluateConfig, without=TrainConfig)
    return "\n".join(sections)


def _sections(program: str, root: str, schema: type, without: type | None = None) -> Iterator[str]:
    """A table of the keys that belong to no group, then one a group.

    Args:
        program: Its name.
        root: Its root file in ``conf/``.
        schema: Its dataclass.
        without: Groups of this schema are left out.
    """
    values = _composed(root)
    groups = {name: kind for name, kind in _kinds(schema).items() if is_dataclass(kind)}
    listed = set() if without is None else set(_kinds(without).values())
    yield f"## `{program}`\n"
    conditions = dict(declared_conditions(schema))
    rows = list(_rows(schema, "", values, conditions))
    yield _table([row for row in rows if row[0] not in groups])
    for name, kind in groups.items():
        if kind not in listed:
            yield f"### `{name}`\n"
            yield from _options(name)
            yield _table(list(_rows(kind, f"{name}.", values, conditions)))


def _composed(root: str) -> DictConfig:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(root)


def _options(group: str) -> Iterator[str]:
    """The files of a group, each with the first sentence of its comment."""
    folder = next((CONF / name for name in (group, "optimizer") if (CONF / name).is_dir()), None)
    if folder is None or (group != folder.name and group != "optim"):
        return
    lines = [
        f"`{folder.name}={path.stem}`: {_first_sentence(path)}"
        for path in sorted(folder.glob("*.yaml"))
    ]
    yield "\n".join(f"- {line}" for line in lines) + "\n"


def _first_sentence(path: Path) -> str:
    lines = path.read_text("utf-8").splitlines()
    comments = [line[1:].strip() for line in lines if line.startswith("#")]
    comment = " ".join(line for line in comments if not line.startswith("@package"))
    sentence = comment.partition(". ")[0].rstrip(".:")
    return f"{sentence}." if sentence else "no comment."


def _rows(
    schema: Any, prefix: str, values: Any, conditions: Conditions
) -> Iterator[tuple[str, str, str, str]]:
    """Key, type, value and meaning of every key below a schema."""
    meanings, hints = _docstrings(schema), _kinds(schema)
    named = groups_by_name(schema)
    for item in fields(schema):
        kind, key = hints[item.name], prefix + item.name
        if is_dataclass(kind):
            if prefix:
                yield from _rows(kind, f"{key}.", values, conditions)
            else:
                yield key, "", "", ""
        elif named is not None and item.name == named[0]:
            yield from _rows(named[1], f"{prefix}{ANY_NAME}.", values, conditions)
        else:
            where = described(key, conditions[key])
            meaning = meanings[item.name] + f" *Only with {where}.*" * bool(where)
            yield key, _typed(kind), _shown(values, key), meaning


def _kinds(schema: type) -> dict[str, Any]:
    return get_type_hints(schema)


def _docstrings(schema: type) -> dict[str, str]:
    """What stands below each field of a dataclass."""
    (cls,) = ast.parse(textwrap.dedent(inspect.getsource(schema))).body
    assert isinstance(cls, ast.ClassDef)
    found = {}
    for node, after in zip(cls.body, cls.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
            assert isinstance(node.target, ast.Name)
            assert isinstance(after.value, ast.Constant)
            found[node.target.id] = " ".join(str(after.value.value).split())
    return found


def _typed(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_typed(each) for each in get_args(kind))
    if kind is type(None):
        return "null"
    if get_origin(kind) is not None:
        inside = ", ".join(_typed(each) for each in get_args(kind))
        return f"{get_origin(kind).__name__} of {inside}"
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    return names.get(kind.__name__, kind.__name__)


def _shown(values: Any, key: str) -> str:
    """The value as YAML writes it, and an interpolation as it stands there."""
    found = OmegaConf.to_container(values, resolve=False)
    for name in key.split("."):
        if not isinstance(found, dict) or name not in found:
            return ""
        found = found[name]
    text = yaml.safe_dump(found, default_flow_style=True, width=1000).removesuffix("\n...\n")
    return text.strip().strip("'") if isinstance(found, str) else text.strip()


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    lines = ["| key | type | value | meaning |", "|---|---|---|---|"]
    for key, kind, value, meaning in rows:
        shown = f"`{value}`" if value else ""
        cells = (f"`{key}`", kind, shown, meaning.replace("``", "`"))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_text(PAGE, page())
    print(f"Written: {PAGE}")
