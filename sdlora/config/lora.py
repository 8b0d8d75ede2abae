"""The typed schema of ``lora.*``: how each part of the model trains."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from omegaconf import MISSING

from sdlora.config.effect import TAKEN, Condition, given, of, unset, where
from sdlora.config.rules import (
    require,
    require_choice,
    require_count,
    require_fraction,
    require_rate,
)

WITH_ADAPTERS = of("lora.*.method", "lora")
"""Some part of the model has an adapter."""

OF_ADAPTERS = (".method", "lora")
NO_RANK, NO_ALPHA = unset("lora.*.r", OF_ADAPTERS), unset("lora.*.alpha", OF_ADAPTERS)
"""Some part with an adapter has no rank, no alpha of its own."""

ALPHA_AS_WRITTEN, ALPHA_FOLLOWS = "lora.alpha as written", "${lora.r}"
"""Entry of the values: with this one, alpha is as large beside the rank whatever the rank is."""

ALPHA_APART = Condition(
    ALPHA_AS_WRITTEN,
    lambda value: value != ALPHA_FOLLOWS,
    None,
    meaning="a `lora.alpha` that does not follow it",
)

TYPES = ("lora", "loha", "lokr", "oft")
OF_LORA = of("lora.type", "lora")
WITH_RANKS = of("lora.type", "lora", "loha", "lokr")
"""Types whose update is made of matrices of low rank; OFT turns weights by blocks."""

METHODS = ("lora", "full", "frozen")
FROM_BASE = ("pissa", "olora")
"""Inits that take both matrices of an adapter from the base's weights."""


@dataclass(slots=True, kw_only=True)
class LoraPartConfig:
    """How one part of the model trains."""

    method: str | None = None
    """``lora`` (an adapter), ``full`` (all weights) or ``frozen``; ``null``: not set, an error for
    a part that the model's family can train."""
    targets: list[str] = field(default_factory=list, metadata=where(of(".method", "lora")))
    """Names, or ends of names, of the layers that get an adapter."""
    r: int | None = field(default=None, metadata=where(of(".method", "lora"), WITH_RANKS))
    """Rank in this part; ``null``: ``lora.r``. >= 1."""
    alpha: float | None = field(default=None, metadata=where(of(".method", "lora"), WITH_RANKS))
    """Alpha in this part; ``null``: as large beside its rank as ``lora.alpha`` is beside
    ``lora.r``. > 0."""
    rank_pattern: dict[str, int] = field(
        default_factory=dict, metadata=where(of(".method", "lora"), WITH_RANKS)
    )
    """Ranks of single layers, by pattern: a part of the name between dots, with ``*``, such as
    ``{mid_block: 16, down_blocks.*.attn1: 4}``; a later pattern wins."""
    alpha_pattern: dict[str, float] = field(
        default_factory=dict, metadata=where(of(".method", "lora"), WITH_RANKS)
    )
    """Alphas of single layers, by pattern as in ``rank_pattern``. > 0."""

    def check(self, name: str) -> None:
        """Check the values; ``name`` is the part's key, such as ``lora.unet``."""
        if self.method is not None:
            require_choice(f"{name}.method", self.method, METHODS)
        ranks = {f"rank_pattern.{pattern}": r for pattern, r in self.rank_pattern.items()}
        for key, r in {"r": self.r, **ranks}.items():
            if r is not None:
                require_count(f"{name}.{key}", r)
        alphas = {
            f"alpha_pattern.{pattern}": value for pattern, value in self.alpha_pattern.items()
        }
        for key, alpha in {"alpha": self.alpha, **alphas}.items():
            if alpha is not None:
                require_rate(f"{name}.{key}", alpha)
        require(
            self.method != "lora" or bool(self.targets),
            f"{name}.targets",
            self.targets,
            f"names no layer; list some, or set {name}.method=frozen",
        )


@dataclass(slots=True, kw_only=True)
class NewWordConfig:
    """A new word to learn by textual inversion, alone or with an adapter."""

    name: str | None = None
    """The new word, unknown to the text encoders; captions and prompts must contain it. ``null``:
    none."""
    init: str = field(default=MISSING, metadata=where(given(".name")))
    """Known words that initialise the embeddings, such as the kind of thing."""
    num_vectors: int = field(default=MISSING, metadata=where(given(".name")))
    """Number of embeddings of the new word; each takes a token of the caption. >= 1."""

    def __post_init__(self) -> None:
        require_count("lora.new_word.num_vectors", self.num_vectors)
        if self.name is not None:
            whole = bool(self.name) and not any(letter.isspace() for letter in self.name)
            require(whole, "lora.new_word.name", repr(self.name), "must be one word")
            require(
                bool(self.init.strip()),
                "lora.new_word.init",
                repr(self.init),
                "names no word; give one that is near, such as person",
            )


@dataclass(slots=True, kw_only=True)
class LoraConfig:
    """What trains in each part of the model, and the adapters.

    The model's family defines the parts. Files and the command line name a part in the group
    itself, such as ``lora.unet.r``; here they are a mapping.
    """

    type: str = field(default=MISSING, metadata=where(WITH_ADAPTERS))
    """Type of the adapters: ``lora``, ``loha`` (Hadamard product), ``lokr`` (Kronecker product) or
    ``oft`` (orthogonal turns of a layer's inputs)."""
    relative_rate: float = field(default=MISSING, metadata=where(TAKEN))
    """Rates for adapters of this type, relative to the model's; > 0."""
    r: int = field(
        default=MISSING,
        metadata=where(WITH_ADAPTERS, WITH_RANKS, (NO_RANK, NO_ALPHA), (NO_RANK, ALPHA_APART)),
    )
    """Rank of the update matrices; >= 1. LoHa: of both its products, so that the update has rank up
    to r²; LoKr: of the right factor, which is whole from half its side on."""
    alpha: float = field(default=MISSING, metadata=where(WITH_ADAPTERS, WITH_RANKS, NO_ALPHA))
    """The update is scaled by alpha / r (rsLoRA: alpha / sqrt(r)); > 0."""
    decompose_factor: int = field(
        default=MISSING, metadata=where(WITH_ADAPTERS, of("lora.type", "lokr"))
    )
    """LoKr: side of the left factor, where it divides the layer's width; a smaller one leaves more
    to the right factor. >= 2, or -1: nearest to the square root of the width."""
    oft_block_size: int = field(
        default=MISSING, metadata=where(WITH_ADAPTERS, of("lora.type", "oft"))
    )
    """OFT: side of the blocks by which a layer's inputs are turned, in place of a rank: more is
    more to learn. Divides the inputs of every adapted layer; >= 2."""
    dropout: float = field(default=MISSING, metadata=where(WITH_ADAPTERS, OF_LORA))
    """Probability that an adapter's input is dropped while training; [0, 1)."""
    rank_dropout: float = field(default=MISSING, metadata=where(WITH_ADAPTERS, OF_LORA))
    """Probability that a rank of an adapter's update is dropped for a sample; [0, 1)."""
    init: str = field(default=MISSING, metadata=where(WITH_ADAPTERS, OF_LORA))
    """Initial matrices: ``default`` (A Kaiming uniform) or ``gaussian``, B zero; or both from the
    base's weights, ``pissa`` (largest singular values) or ``olora`` (QR)."""
    init_from: str | None = field(default=None, metadata=where(WITH_ADAPTERS))
    """File or folder of any layout to start from; type, ranks and layers must match. Its strength
    is kept, whatever alpha is."""
    use_rslora: bool = field(default=MISSING, metadata=where(WITH_ADAPTERS, OF_LORA))
    """Rank-stabilised scale alpha / sqrt(r)."""
    use_dora: bool = field(default=MISSING, metadata=where(WITH_ADAPTERS, OF_LORA))
    """Weight-decomposed LoRA; denoiser only (a text encoder's magnitudes do not survive export)."""
    parts: dict[str, LoraPartConfig] = field(default_factory=dict)
    """The parts by name, such as ``unet``."""
    new_word: NewWordConfig = MISSING

    def __post_init__(self) -> None:
        require_choice("lora.type", self.type, TYPES)
        require_rate("lora.relative_rate", self.relative_rate)
        require_count("lora.r", self.r)
        require_rate("lora.alpha", self.alpha)
        require(
            self.decompose_factor == -1 or self.decompose_factor >= 2,
            "lora.decompose_factor",
            self.decompose_factor,
            "must be a whole number >= 2, or -1 (nearest to the square root of each width)",
        )
        require_count("lora.oft_block_size", self.oft_block_size, least=2)
        require_fraction("lora.dropout", self.dropout)
        require_fraction("lora.rank_dropout", self.rank_dropout)
        require_choice("lora.init", self.init, ("default", "gaussian", *FROM_BASE))
        for name, part in self.parts.items():
            part.check(f"lora.{name}")
        methods = self.methods(self.parts)
        require(
            set(methods.values()) != {"frozen"} or self.new_word.name is not None,
            f"lora.{next(iter(methods), None)}.method",
            "frozen",
            "like all the others, leaves nothing to train; set one to lora or full, or "
            "lora.new_word.name",
        )
        self._refuse_mixtures(methods)
        require(
            self.init_from is None or self.init == "default" or self.type != "lora",
            "lora.init",
            self.init,
            "has no effect where lora.init_from gives the weights; set it to default",
        )

    def part(self, name: str) -> LoraPartConfig:
        """The config of a part; all defaults for one that no file names."""
        return self.parts.get(name, LoraPartConfig())

    def methods(self, names: Iterable[str]) -> dict[str, str | None]:
        """The training method of each of these parts."""
        return {name: self.part(name).method for name in names}

    def _refuse_mixtures(self, methods: dict[str, str | None]) -> None:
        trained = {part: way for part, way in methods.items() if way not in ("frozen", None)}
        first, way = next(iter(trained.items()), ("", ""))
        for part, method in trained.items():
            require(
                method == way,
                f"lora.{part}.method",
                method,
                f"cannot be mixed with lora.{first}.method={way}; train all parts the same way, or "
                "freeze some",
            )
        require(
            self.new_word.name is None or "full" not in methods.values(),
            "lora.new_word.name",
            self.new_word.name,
            "goes with adapters or frozen parts only; set all methods to lora or frozen",
        )
        is_dora = self.use_dora and self.type == "lora"
        require(
            not (is_dora and self.init in FROM_BASE),
            "lora.init",
            self.init,
            "changes the norm that DoRA divides by; set it to default, or lora.use_dora=false",
        )
        require(
            not (is_dora and self.rank_dropout),
            "lora.rank_dropout",
            self.rank_dropout,
            "changes the norm that DoRA divides by; set it to 0, or lora.use_dora=false",
        )
