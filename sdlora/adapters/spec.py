"""The spec of an adapter: everything except its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field

NUM_SHOWN = 8

TITLES = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "oft": "OFT"}
"""``lora.type`` -> its name for people."""


class LoraError(ValueError):
    """An adapter that does not fit its model; the message lists names, shapes and remedy."""


@dataclass(frozen=True)
class LoraSpec:
    """The adapter of one part, from the config or from a file.

    Values are checked at their origin: the config's by their keys
    (:class:`sdlora.config.lora.LoraConfig`), a file's by its path
    (:mod:`sdlora.adapters.lora_file`).

    Attributes:
        r: Rank.
        alpha: The update is scaled by ``alpha / r`` (rsLoRA: ``alpha / sqrt(r)``).
        dropout: Probability that an adapter's input is dropped while training.
        targets: Layers that get an adapter: full names or their ends after a dot, or patterns.
        init: ``"default"`` (Kaiming uniform A, zero B), ``"gaussian"`` (A ~ N(0, 1/r^2), zero B),
            ``"pissa"`` or ``"olora"`` (from the base's weights, see ``start_from_base``).
        use_dora: Weight-decomposed LoRA (arXiv:2402.09353).
        use_rslora: Rank-stabilised scale (arXiv:2312.03732).
        rank_pattern: Ranks of layers that differ from ``r``, by pattern (see ``by_pattern``).
        alpha_pattern: Alphas of layers that differ from ``alpha``, by pattern.
        rank_dropout: Probability that a rank of a sample's update is dropped.
        type: ``"lora"``, ``"loha"``, ``"lokr"`` or ``"oft"``.
        decompose_factor: LoKr: size of the left factor; -1: nearest to the square root.
        oft_block_size: OFT: side of the blocks that turn a layer's inputs; it has no rank.
    """

    r: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    init: str = "default"
    use_dora: bool = False
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict, hash=False)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict, hash=False)
    rank_dropout: float = 0.0
    type: str = "lora"
    decompose_factor: int = -1
    oft_block_size: int = 32


def listing(lines: list[str]) -> str:
    """The first of ``lines``, each on a line of its own, and the number of further ones."""
    more = [f"... and {len(lines) - NUM_SHOWN} more"] if len(lines) > NUM_SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:NUM_SHOWN], *more])
