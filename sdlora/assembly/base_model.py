"""Typed config -> the base model: where it lies, and its parts loaded."""

from dataclasses import replace
from importlib.util import find_spec

from sdlora.assembly.device import DTYPES, compute_device
from sdlora.config.lora import LoraConfig
from sdlora.config.model import ModelConfig
from sdlora.config.rules import require, require_choice
from sdlora.config.train import TrainConfig
from sdlora.models.family import Family
from sdlora.models.layouts import layout_of
from sdlora.models.loading import families
from sdlora.models.quantising import quantise
from sdlora.models.source import ModelSource
from sdlora.runtime.randomness import derive_seed


def model_source(config: ModelConfig) -> ModelSource:
    """Where the base lies, for what reads no weight.

    Raises:
        ConfigError: If the family cannot do without a folder and there is none.
    """
    blank = layout_of(config.family).blank
    path = blank if config.path is None else config.path
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
        scratch=("unet",) if is_new else tuple(config.scratch),
        vae=config.vae,
        architecture=dict(config.architecture) if is_new else {},
    )


def check_family(config: ModelConfig) -> None:
    """Fail, before any weight is read, on an unknown family or what the family cannot do.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    require_choice("model.family", config.family, sorted(families()))
    layout = layout_of(config.family)
    require(
        layout.is_clip or config.clip_skip == 0,
        "model.clip_skip",
        config.clip_skip,
        f"{layout.kind} has no CLIP to leave layers out of; set it to 0",
    )
    require(
        config.quantise is None or find_spec("bitsandbytes") is not None,
        "model.quantise",
        config.quantise,
        "needs a package that is not installed; pip install bitsandbytes, or set it to null",
    )


def check_training(config: TrainConfig) -> None:
    """Fail, before any weight is read, on training that the model's family or device cannot do.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    check_family(config.model)
    require(
        not config.trainer.compile or compute_device(config.trainer.accelerator).type != "cpu",
        "trainer.compile",
        config.trainer.compile,
        "torch 2.13 compiles wrong gradients on a CPU, by some percent where a batch is one "
        "picture; set it to false, or train on a GPU",
    )
    layout = layout_of(config.model.family)
    method, max_chunks = config.lora.text_encoder.method, config.data.captions.max_chunks
    require(
        method == "frozen" or layout.trainable != ("unet",),
        "lora.text_encoder.method",
        method,
        f"the text encoder of {layout.kind} cannot be trained; set lora.text_encoder.method=frozen",
    )
    require(
        layout.is_clip or max_chunks == 1,
        "data.captions.max_chunks",
        max_chunks,
        f"{layout.kind} reads captions in one piece of {layout.max_tokens} tokens; set it to 1",
    )


def load(config: ModelConfig, lora: LoraConfig | None, precision: str, seed: int) -> Family:
    """Load the base; its frozen weights are kept once, in the compute precision."""
    names = layout_of(config.family).trainable
    trained = tuple(part for part in names if lora and lora.part(part).method == "full")
    source = replace(
        model_source(config),
        frozen_dtype=DTYPES[precision],
        trained=trained,
        clip_skip=config.clip_skip,
        vae_dtype=None if config.vae_precision is None else DTYPES[config.vae_precision],
    )
    check_family(config)
    family = families()[config.family](source, derive_seed(seed, "init"))
    for part in trained:
        family.parts[part].requires_grad_(True)
    if config.quantise is not None:
        quantise(family.unet, config.quantise)
    return family
