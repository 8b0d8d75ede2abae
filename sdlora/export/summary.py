"""Summary of a LoRA file, as tables for the terminal and as JSON."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sdlora.adapters.inspection import FileFacts, PartFacts, base_of

MOST_LETTERS = 48
"""Characters of a header's value that are shown."""

SHOWN_PREFIXES = ("ss_", "sshs_", "modelspec.", "sdlora.")


def shown(facts: FileFacts) -> RenderableType:
    """Tables of a file: facts, parts, shortened header."""
    whole = _grid()
    whole.add_row("file", f"{facts.path} ({facts.num_bytes / 1e6:.2f} MB)")
    whole.add_row("layout", f"{facts.layout}, {', '.join(facts.dtypes)}")
    whole.add_row("base model", base_of(facts.metadata) or "not said")
    whole.add_row("finite", "yes" if facts.is_finite else "NO: NaN or infinity; unusable")
    parts = Table("part", "layers", "rank", "alpha", "norm", title="parts")
    for name, part in facts.parts.items():
        parts.add_row(
            name,
            "\n".join(f"{count} {kind}" for kind, count in part.kinds.items()),
            _counts(part.ranks) + (" DoRA" if part.is_dora else ""),
            _counts(part.alphas),
            _norm(part),
        )
    strongest = Table("norm", "layer", title="strongest layers")
    for name, part in facts.parts.items():
        for layer, norm in part.strongest.items():
            strongest.add_row(f"{norm:.3g}", Text(f"{name}.{layer}", overflow="fold"))
    header = Table("key", "value", title="header")
    for key, value in sorted(facts.metadata.items()):
        if key.startswith(SHOWN_PREFIXES):
            header.add_row(key, Text(_shortened(value), overflow="fold"))
    return Group(whole, parts, *(each for each in (strongest, header) if each.row_count))


def as_json(facts: FileFacts) -> str:
    """The same as plain JSON values, with the whole header."""
    content: dict[str, Any] = {
        **asdict(facts),
        "is_finite": facts.is_finite,
        "base_model": base_of(facts.metadata),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    return grid


def _norm(part: PartFacts) -> str:
    if part.norm is None:
        return f"not finite: {len(part.not_finite)} tensors, such as {part.not_finite[0]}"
    return f"{part.norm:.4g}"


def _counts(counts: Mapping[Any, int]) -> str:
    """``8``, or ``8 (120 layers), 4 (72)`` if there are several."""
    if len(counts) == 1:
        return f"{next(iter(counts)):g}"
    return _listed(f"{value:g} ({count} layers)" for value, count in counts.items())


def _listed(items: Iterable[str]) -> str:
    found = list(items)
    return ", ".join(found[:4]) + (f", and {len(found) - 4} more" if len(found) > 4 else "")


def _shortened(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS - 1]}\u2026"
