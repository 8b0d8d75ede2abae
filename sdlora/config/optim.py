"""The typed schema of ``optim.*``: the optimizer and its learning rates."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from sdlora.config.effect import absent, given, of, where
from sdlora.config.rules import (
    require_rate,
)

UNET_TRAINS = of("lora.unet.method", "lora", "full")
TRANSFORMER_TRAINS = of("lora.transformer.method", "lora", "full")


@dataclass(slots=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning rates."""

    name: str = MISSING
    """Optimizer: adamw, sgd, adafactor, prodigy, adamw8bit, paged_adamw8bit, schedule_free_adamw,
    lion, came, or one that an installed package adds."""
    unet_lr: float = field(
        default=MISSING,
        metadata=where((UNET_TRAINS, TRANSFORMER_TRAINS), (UNET_TRAINS, absent(".transformer_lr"))),
    )
    """Learning rate of the denoiser's trained weights: the UNet's, or, in a model that has one, the
    transformer's; > 0."""
    transformer_lr: float | None = field(default=None, metadata=where(TRANSFORMER_TRAINS))
    """The same of a transformer, in place of ``unet_lr``; > 0. ``null``: ``unet_lr``."""
    text_encoder_lr: float = field(
        default=MISSING, metadata=where(of("lora.text_encoder*.method", "lora", "full"))
    )
    """Learning rate of the text encoder's trained weights; > 0."""
    new_word_lr: float = field(default=MISSING, metadata=where(given("lora.new_word.name")))
    """Learning rate of a new word's embeddings (``lora.new_word``); > 0."""
    lora_plus_ratio: float | None = field(default=None, metadata=where(of("lora.type", "lora")))
    """LoRA+: the rate of an adapter's matrices B is this many times that of its A, > 0 (16 in the
    paper); ``null``: the same."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimizer, checked against its signature."""

    def __post_init__(self) -> None:
        require_rate("optim.unet_lr", self.unet_lr)
        if self.transformer_lr is not None:
            require_rate("optim.transformer_lr", self.transformer_lr)
        require_rate("optim.text_encoder_lr", self.text_encoder_lr)
        require_rate("optim.new_word_lr", self.new_word_lr)
        if self.lora_plus_ratio is not None:
            require_rate("optim.lora_plus_ratio", self.lora_plus_ratio)

    def denoiser_key(self, denoiser: str) -> str:
        """The key of the denoiser's rate: ``unet_lr``, unless ``transformer_lr`` is set."""
        own = denoiser == "transformer" and self.transformer_lr is not None
        return "transformer_lr" if own else "unet_lr"

    def denoiser_lr(self, denoiser: str) -> float:
        """The denoiser's learning rate; ``denoiser``: its part name."""
        rate: float = getattr(self, self.denoiser_key(denoiser))
        return rate
