"""What an adapter is, apart from its weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sdlora.adapters.start import BASE_STARTS

INITS = ("default", "gaussian", *BASE_STARTS)
NUM_SHOWN = 8


class LoraError(ValueError):
    """An adapter that does not fit its model; the message lists names, shapes and remedy."""


@dataclass(frozen=True)
class LoraSpec:
    """What an adapter is, apart from its weights.

    Attributes:
        r: Rank; >= 1.
        alpha: The update is scaled by ``alpha / r`` (rsLoRA: ``alpha / sqrt(r)``); > 0.
        dropout: Probability that an adapter's input is dropped while training; [0, 1).
        targets: Layers that get an adapter: full names or their ends, cut at a dot.
        init: ``"default"`` (Kaiming uniform A, zero B), ``"gaussian"`` (A ~ N(0, 1/r^2), zero B),
            ``"pissa"`` or ``"olora"`` (from the base's weights, see ``start_from_base``).
        use_dora: Weight-decomposed LoRA (arXiv:2402.09353).
        use_rslora: Rank-stabilised scale (arXiv:2312.03732).
        rank_pattern: Ranks of layers that differ from ``r``, by pattern (see ``by_pattern``).
        alpha_pattern: Alphas of layers that differ from ``alpha``, by pattern.
        rank_dropout: Probability that a rank of a sample's update is dropped; [0, 1).

    Raises:
        ValueError: If a value is out of range, or two do not go together.
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

    def __post_init__(self) -> None:
        for name, r in {"r": self.r, **self.rank_pattern}.items():
            if isinstance(r, bool) or not isinstance(r, int) or r < 1:
                raise ValueError(f"{name}={r!r}: a rank is a whole number >= 1")
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            if not (math.isfinite(alpha) and alpha > 0):
                raise ValueError(f"{name}={alpha!r}: an alpha is a finite number > 0")
        for name, share in {"dropout": self.dropout, "rank_dropout": self.rank_dropout}.items():
            if not 0 <= share < 1:
                raise ValueError(f"{name}={share!r}: must be in [0, 1)")
        if not self.targets:
            raise ValueError("targets=(): names no layer; list some, such as to_q, to_v")
        if self.init not in INITS:
            raise ValueError(f"init={self.init!r}: must be one of {', '.join(INITS)}")
        if self.use_dora and (self.rank_dropout or self.init in BASE_STARTS):
            raise ValueError(
                "use_dora=True: takes neither rank_dropout nor an init from the base's weights, "
                "both of which change the norm that it divides by"
            )


def listing(lines: list[str]) -> str:
    """The first few of ``lines``, each on a line of its own, and how many more there are."""
    more = [f"... and {len(lines) - NUM_SHOWN} more"] if len(lines) > NUM_SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:NUM_SHOWN], *more])
