"""The typed schema of ``lora.*``: how each part of the model trains."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from sdlora.config_rules import (
    require,
    require_choice,
    require_count,
    require_fraction,
    require_rate,
)

METHODS = ("lora", "full", "frozen")


@dataclass(slots=True, kw_only=True)
class LoraPartConfig:
    method: str = MISSING
    """How this part trains: ``lora`` (an adapter), ``full`` (all weights) or ``frozen``."""
    targets: list[str] = field(default_factory=list)
    """Names, or ends of names, of the layers that get an adapter."""
    r: int | None = None
    """Rank in this part; ``null``: ``lora.r``. >= 1."""
    alpha: float | None = None
    """Alpha in this part; ``null``: ``lora.alpha``. > 0."""


@dataclass(slots=True, kw_only=True)
class NewWordConfig:
    name: str | None = None
    """A word that the text encoders do not know, to be learned (textual inversion), alone or with
    an adapter; captions and prompts must hold it. ``null``: none."""
    init: str = MISSING
    """Known words that the new one begins as, such as what kind of thing it is."""
    num_vectors: int = MISSING
    """How many embeddings stand for the new word; each takes a token of the caption. >= 1."""

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
    r: int = MISSING
    """Rank of the update matrices; >= 1."""
    alpha: float = MISSING
    """The update is scaled by alpha / r (rsLoRA: alpha / sqrt(r)); > 0."""
    dropout: float = MISSING
    """Probability that an adapter's input is dropped while training; [0, 1)."""
    init: str = MISSING
    """How matrix A starts: ``default`` (Kaiming uniform) or ``gaussian``; B starts at zero."""
    use_rslora: bool = MISSING
    """Rank-stabilised scale alpha / sqrt(r)."""
    use_dora: bool = MISSING
    """Weight-decomposed LoRA; UNet only (its text-encoder magnitudes do not survive export)."""
    unet: LoraPartConfig = MISSING
    text_encoder: LoraPartConfig = MISSING
    new_word: NewWordConfig = MISSING

    def __post_init__(self) -> None:
        require_count("lora.r", self.r)
        require_rate("lora.alpha", self.alpha)
        require_fraction("lora.dropout", self.dropout)
        require_choice("lora.init", self.init, ("default", "gaussian"))
        for name, part in (("unet", self.unet), ("text_encoder", self.text_encoder)):
            require_choice(f"lora.{name}.method", part.method, METHODS)
            require_count(f"lora.{name}.r", self.r if part.r is None else part.r)
            require_rate(f"lora.{name}.alpha", self.alpha if part.alpha is None else part.alpha)
            require(
                part.method != "lora" or bool(part.targets),
                f"lora.{name}.targets",
                part.targets,
                f"names no layer; list some, or set lora.{name}.method=frozen",
            )
        methods = {self.unet.method, self.text_encoder.method}
        require(
            methods != {"frozen"} or self.new_word.name is not None,
            "lora.unet.method",
            "frozen",
            "and lora.text_encoder.method=frozen leave nothing to train; set one to lora or full, "
            "or lora.new_word.name",
        )
        require(
            methods < {"lora", "frozen"} or methods == {"lora", "frozen"} or "lora" not in methods,
            "lora.text_encoder.method",
            self.text_encoder.method,
            f"cannot be mixed with lora.unet.method={self.unet.method}; train both the same way, "
            "or freeze one",
        )
        require(
            self.new_word.name is None or "full" not in methods,
            "lora.new_word.name",
            self.new_word.name,
            "goes with adapters or frozen parts only; set both methods to lora or frozen",
        )
        require(
            not (self.use_dora and self.text_encoder.method == "lora"),
            "lora.use_dora",
            True,
            "works on the UNet only; set lora.text_encoder.method=frozen",
        )
