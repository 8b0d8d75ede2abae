"""Typed config -> the source of the base model, and its loaded parts."""

from collections.abc import Collection
from dataclasses import replace

from sdlora.assembly.device import DTYPES
from sdlora.assembly.family_limits import check_model
from sdlora.config.lora import LoraConfig
from sdlora.config.model import ModelConfig
from sdlora.config.rules import require
from sdlora.models import drawing_base
from sdlora.models.drawing_base import DrawingBase
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.models.loading import load_family
from sdlora.models.quantising import quantise
from sdlora.models.source import ModelSource
from sdlora.runtime.randomness import derive_seed


def model_source(config: ModelConfig) -> ModelSource:
    """The source of the base; reads no weight.

    Raises:
        ConfigError: If the family needs a folder and there is none.
    """
    description = description_of(config.family)
    path = description.blank if config.path is None else config.path
    require(
        path is not None,
        "model.path",
        "null",
        f"model.family={config.family} needs a folder or a Hub id",
    )
    is_new = config.path is None
    return ModelSource(
        path=str(path),
        family=config.family,
        config=config.config,
        revision=config.revision,
        variant=config.variant,
        scratch=(description.denoiser,) if is_new else tuple(config.scratch),
        vae=config.vae,
        architecture=dict(config.architecture) if is_new else {},
        prediction_type=config.prediction_type,
        zero_terminal_snr=config.zero_terminal_snr,
    )


def drawing_source(config: ModelConfig) -> ModelSource:
    """The source of what draws: the base, with the denoiser of ``model.draw_with`` if it is set."""
    return replace(model_source(config), draw_with=config.draw_with)


def load_to_draw(config: ModelConfig, precision: str, seed: int) -> Family:
    """Load what draws: nothing of it trains."""
    return _load(drawing_source(config), config, None, precision, seed, None)


def load_drawing_base(config: ModelConfig, precision: str, seed: int) -> DrawingBase | None:
    """Load what of ``model.draw_with`` draws while the base trains; ``None``: the base draws."""
    if config.draw_with is None:
        return None
    source = replace(drawing_source(config), frozen_dtype=DTYPES[precision])
    found = drawing_base.load_drawing_base(source, derive_seed(seed, "init"))
    if config.quantise is not None:
        quantise(found.denoiser, config.quantise)
    return found


def load(
    config: ModelConfig,
    lora: LoraConfig | None,
    precision: str,
    seed: int,
    needed: Collection[str] | None = None,
) -> Family:
    """Load the base; frozen weights are kept once, in the compute precision.

    Args:
        config: The base.
        lora: Which of its weights train; ``None``: none.
        precision: ``fp32``, ``bf16`` or ``fp16`` of the others.
        seed: Seed of random weights.
        needed: Parts that are needed; the others have no weights. ``None``: all.
    """
    return _load(model_source(config), config, lora, precision, seed, needed)


def _load(
    source: ModelSource,
    config: ModelConfig,
    lora: LoraConfig | None,
    precision: str,
    seed: int,
    needed: Collection[str] | None,
) -> Family:
    check_model(config)
    methods = lora.methods(description_of(config.family).trainable) if lora else {}
    trained = tuple(part for part, method in methods.items() if method == "full")
    source = replace(
        source,
        frozen_dtype=DTYPES[precision],
        trained=trained,
        clip_skip=config.clip_skip,
        vae_dtype=None if config.vae_precision is None else DTYPES[config.vae_precision],
    )
    family = load_family(source, derive_seed(seed, "init"), needed)
    for part in trained:
        family.parts[part].requires_grad_(True)
    if config.quantise is not None and (needed is None or family.denoiser_name in needed):
        quantise(family.denoiser, config.quantise)
    return family
