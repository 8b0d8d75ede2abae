"""Selection of layers by name: targets, and patterns with wildcards."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

from sdlora.adapters.spec import LoraError

Value = TypeVar("Value")

NUM_NEAR = 5


def target_layers(module: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the layers that get an adapter.

    Args:
        module: A part without an adapter.
        targets: Full names or their ends after a dot; or patterns of these with ``*``, which match
            layers that can be adapted, and no others.

    Raises:
        LoraError: If a target matches nothing, or a layer that cannot be adapted.
    """
    modules = dict(module.named_modules())
    kinds = (nn.Linear, nn.Conv2d)
    possible = sorted({n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, kinds)})
    found = []
    for target in targets:
        if "*" in target:
            layers = [n for n, m in modules.items() if isinstance(m, kinds)]
            matches = [n for n in layers if fnmatchcase(f".{n}", f"*.{target}")]
        else:
            matches = [n for n in modules if n == target or n.endswith(f".{target}")]
        if not matches:
            near = get_close_matches(target, possible, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise LoraError(
                f"targets={target}: no such layer in {type(module).__name__}{hint} "
                f"Layers there end with, for example, {', '.join(possible[:12])}"
            )
        for name in matches:
            if not isinstance(modules[name], kinds):
                raise LoraError(
                    f"targets={target}: {name} is a {type(modules[name]).__name__}; only Linear "
                    f"and Conv2d layers take a LoRA, so {_longer(target, name, modules, kinds)}"
                )
        found += matches
    return list(dict.fromkeys(found))


def _longer(
    target: str, name: str, modules: Mapping[str, nn.Module], kinds: tuple[type[nn.Module], ...]
) -> str:
    """Advice for a target that names something which holds layers."""
    inside = [n for n, m in modules.items() if n.startswith(f"{name}.") and isinstance(m, kinds)]
    ends = dict.fromkeys(f"{target}.{n.removeprefix(f'{name}.')}" for n in inside)
    alone = [n for n, m in modules.items() if n.endswith(f".{target}") and isinstance(m, kinds)]
    advice = f"give a longer name, such as {next(iter(ends), 'to_out.0')}"
    if not alone:
        return advice
    first = alone[0].replace(".0.", ".*.")
    return f"{advice}; where it is a layer itself: {first}"


def by_pattern(
    names: Sequence[str], values: Mapping[str, Value]
) -> tuple[dict[str, Value], list[str]]:
    """The value of each layer: that of the last pattern that matches it.

    A pattern is a part of a name between dots, with ``*``, ``?`` and ``[...]`` as in a shell:
    ``to_q`` and ``attn1`` match every layer of that name or inside of it, ``down_blocks.*.attn1``
    those of the first half of a UNet. A layer's full name matches that layer alone.

    Args:
        names: Names of all layers.
        values: Values by pattern; a later pattern wins over an earlier one.

    Returns:
        Values of the matched layers, and the patterns that match none.
    """
    found: dict[str, Value] = {}
    unused = []
    for pattern, value in values.items():
        matched = [pattern] if pattern in names else [n for n in names if _matches(n, pattern)]
        found |= dict.fromkeys(matched, value)
        if not matched:
            unused.append(pattern)
    return found, unused


def resolved(
    key: str, values: Mapping[str, Value], default: Value, names: Sequence[str]
) -> dict[str, Value]:
    """Patterns in peft's form: full names of the layers that differ from the default.

    Args:
        key: Config key of the values, for the message.
        values: Values by pattern, see :func:`by_pattern`.
        default: Value of the other layers.
        names: Names of all adapted layers.

    Returns:
        The longest names first: peft takes the first one that a layer's name ends with.

    Raises:
        LoraError: If a pattern matches no layer; it lists near names.
    """
    found, unused = by_pattern(names, values)
    if unused:
        raise LoraError(
            f"{key}={unused[0]}: matches none of the {len(names)} adapted layers; near names: "
            f"{', '.join(_near_names(unused[0], names))}"
        )
    return {n: found[n] for n in sorted(found, key=len, reverse=True) if found[n] != default}


def _near_names(pattern: str, names: Sequence[str]) -> list[str]:
    """Parts of names similar to a pattern, the nearest first."""
    pieces = sorted({piece for name in names for piece in (name, *name.split("."))})
    return get_close_matches(pattern, pieces, n=NUM_NEAR, cutoff=0.0)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(f".{name}.", f"*.{pattern}.*")
