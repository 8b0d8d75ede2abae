"""Summary of a LoRA file, as tables for the terminal and as JSON."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sdlora.adapters.inspection import FileFacts, base_of

if TYPE_CHECKING:  # it brings torch, which a look at headers does without
    from sdlora.adapters.weight_inspection import WeightFacts

MOST_LETTERS = 48
"""Characters of a header's value that are shown."""

SHOWN_PREFIXES = ("ss_", "sshs_", "modelspec.", "sdlora.")


def shown(facts: FileFacts, weights: "Mapping[str, WeightFacts] | None" = None) -> RenderableType:
    """Tables of a file: facts, parts, what programs make of it, norms, shortened header.

    Args:
        facts: Its header's.
        weights: Its weights', by part; ``None``: not read.
    """
    tables = [_parts(facts), _readers(facts), _unknown(facts)]
    if weights is not None:
        tables += [_norms(weights), _strongest(weights)]
    header = Table("key", "value", title="header")
    for key, value in sorted(facts.metadata.items()):
        if key.startswith(SHOWN_PREFIXES):
            header.add_row(key, Text(_shortened(value), overflow="fold"))
    tables.append(header)
    return Group(_whole(facts, weights), *(each for each in tables if each.row_count))


def as_json(facts: FileFacts, weights: "Mapping[str, WeightFacts] | None" = None) -> str:
    """The same as plain JSON values, with the whole header; weights only if they were read."""
    content: dict[str, Any] = {**asdict(facts), "base_model": base_of(facts.metadata)}
    for part in content["parts"].values():
        part["num_layers"] = len(part.pop("layers"))
    if weights is not None:
        content["is_finite"] = _is_finite(weights)
        for part, found in weights.items():
            content["parts"][part] |= asdict(found)
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


def _whole(facts: FileFacts, weights: "Mapping[str, WeightFacts] | None") -> Table:
    whole = Table.grid(padding=(0, 2))
    whole.add_column(style="bold")
    whole.add_row("file", f"{facts.path} ({facts.num_bytes / 1e6:.2f} MB)")
    said = ", as its header says" if facts.family_source == "header" else ""
    whole.add_row("family", f"{facts.family}{said}")
    kinds = _sum(part.adapters for part in facts.parts.values())
    whole.add_row("kind", _listed(f"{name} ({count} layers)" for name, count in kinds.items()))
    whole.add_row("layout", f"{facts.layout}, {', '.join(facts.dtypes)}")
    whole.add_row("base model", base_of(facts.metadata) or "not said")
    whole.add_row("trigger words", ", ".join(facts.trigger_words) or "not said")
    if weights is None:
        whole.add_row("weights", "not read; --weights reads them: norms by block, NaN")
    else:
        finite = "yes" if _is_finite(weights) else "NO: NaN or infinity; unusable"
        whole.add_row("finite", finite)
    return whole


def _parts(facts: FileFacts) -> Table:
    parts = Table("part", "layers", "kind", "rank", "alpha", title="parts")
    for name, part in facts.parts.items():
        parts.add_row(
            name,
            "\n".join(f"{count} {kind}" for kind, count in part.kinds.items()),
            "\n".join(f"{count} {kind}" for kind, count in part.adapters.items()),
            _counts(part.ranks),
            _counts(part.alphas),
        )
    return parts


def _readers(facts: FileFacts) -> Table:
    readers = Table("program", "what it makes of the file", title="readers")
    for name, verdict in facts.readers.items():
        readers.add_row(name, Text(verdict, overflow="fold"))
    return readers


def _unknown(facts: FileFacts) -> Table:
    unknown = Table("of no adapter", title=f"{len(facts.unknown)} unknown")
    for line in facts.unknown[:8]:
        unknown.add_row(Text(line, overflow="fold"))
    if len(facts.unknown) > 8:
        unknown.add_row(f"... and {len(facts.unknown) - 8} more")
    return unknown


def _norms(weights: "Mapping[str, WeightFacts]") -> Table:
    norms = Table("part", "norm", "by block", title="norms of the update")
    for name, part in weights.items():
        if part.norm is None:
            text = f"not finite: {len(part.not_finite)} tensors, such as {part.not_finite[0]}"
            norms.add_row(name, "", text)
            continue
        blocks = [f"{block} {norm:.3g}" for block, norm in part.blocks.items()]
        if part.without_norm:
            blocks.append(f"{part.without_norm} layers need the base's weights")
        norms.add_row(name, f"{part.norm:.4g}", "\n".join(blocks))
    return norms


def _strongest(weights: "Mapping[str, WeightFacts]") -> Table:
    strongest = Table("norm", "layer", title="strongest layers")
    for name, part in weights.items():
        for layer, norm in part.strongest.items():
            strongest.add_row(f"{norm:.3g}", Text(f"{name}.{layer}", overflow="fold"))
    return strongest


def _is_finite(weights: "Mapping[str, WeightFacts]") -> bool:
    return not any(part.not_finite for part in weights.values())


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total


def _counts(counts: Mapping[Any, int]) -> str:
    """``8``, or ``8 (120 layers), 4 (72)`` if there are several."""
    if not counts:
        return "none"
    if len(counts) == 1:
        return f"{next(iter(counts)):g}"
    return _listed(f"{value:g} ({count} layers)" for value, count in counts.items())


def _listed(items: Iterable[str]) -> str:
    found = list(items)
    return ", ".join(found[:4]) + (f", and {len(found) - 4} more" if len(found) > 4 else "")


def _shortened(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS - 1]}\u2026"
