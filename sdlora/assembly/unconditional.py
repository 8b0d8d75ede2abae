"""What goes together with a model that nothing tells what to draw, and what does not."""

from pathlib import Path

import torch

from sdlora.config.model import ModelConfig
from sdlora.config.rules import ConfigError, check_options, require
from sdlora.config.train import TrainConfig
from sdlora.models.layouts import Layout, layout_of
from sdlora.models.source import ModelSource, part_config


def check_told(config: TrainConfig) -> None:
    """Refuse prompts, their scores and adapters where they do nothing, and no prompts elsewhere.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    layout = layout_of(config.model.family)
    if layout.tokenizers:
        _check_prompted(config)
        return
    _check_architecture(config.model, layout)
    adapter = "an adapter cannot be exported for it; choose lora=none, which trains all weights"
    words = "this model is told nothing"
    sampling, evaluation = config.sampling, config.evaluation
    rules = {
        "lora.unet.method": (config.lora.unet.method, "full", adapter),
        "lora.text_encoder.method": (config.lora.text_encoder.method, "frozen", "it has none"),
        "model.clip_skip": (config.model.clip_skip, 0, words),
        "model.vae": (config.model.vae, None, "it works on pixels"),
        "data.buckets.mode": (config.data.buckets.mode, "square", "it draws pictures of one size"),
        "data.prior.mode": (config.data.prior.mode, "none", words),
        "sampling.prompts": (sampling.prompts, None, words),
        "sampling.guidance_scale": (sampling.guidance_scale, 1.0, words),
        "evaluation.clip.name": (evaluation.clip.name, "none", words),
        "evaluation.prior_prompts": (evaluation.prior_prompts, 0, words),
        "evaluation.hw10": (evaluation.hw10, False, words),
    }
    for key, (value, needed, reason) in rules.items():
        must = "null" if needed is None else str(needed).lower()
        require(value == needed, key, value, f"{reason}; set it to {must}")


def _check_prompted(config: TrainConfig) -> None:
    """What only an unconditional model does without, or has."""
    require(
        config.sampling.prompts is not None,
        "sampling.prompts",
        "null",
        "this model draws what it is told; name a text file with one prompt a line",
    )
    require(
        not config.model.architecture,
        "model.architecture",
        config.model.architecture,
        "this model's folder brings its own; leave it out",
    )


def check_side(resolution: int, folder: Path, source: ModelSource) -> None:
    """Refuse to train a model of pixels on another side than its pipeline draws; reads no weight.

    Raises:
        ConfigError: Naming the side.
    """
    if layout_of(source.family).tokenizers:
        return
    side = part_config("unet", folder, source).get("sample_size")
    key = "model.architecture.sample_size" if source.architecture else f"model.path={source.path}"
    require(
        side == resolution,
        "data.resolution",
        resolution,
        f"its pictures have a side of {side} pixels ({key}); set data.resolution={side}",
    )


def _check_architecture(config: ModelConfig, layout: Layout) -> None:
    """Build the network without memory for its weights."""
    if config.path is not None:
        return
    unet = layout.parts["unet"]
    check_options("model.architecture", unet, config.architecture)
    try:
        with torch.device("meta"):
            unet(**config.architecture)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, IndexError) as error:
        message = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.architecture={config.architecture}: makes no {unet.__name__} ({message})"
        ) from error
