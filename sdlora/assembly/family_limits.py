"""Checks of the config against the limits of the model's family, before any weight is read."""

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

import torch

from sdlora.adapters.spec import TITLES
from sdlora.assembly.flow_limits import check_flow_limits
from sdlora.config.captions import CaptionsConfig
from sdlora.config.lora import FROM_BASE, LoraConfig
from sdlora.config.model import ModelConfig
from sdlora.config.rules import ConfigError, check_options, require, require_choice
from sdlora.config.train import TrainConfig
from sdlora.models.description import FamilyDescription
from sdlora.models.families import description_of, families
from sdlora.models.source import ModelSource, part_config


def check_family_limits(config: TrainConfig) -> None:
    """Refuse what the model's family cannot train, draw or score.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    check_model(config.model)
    description = description_of(config.model.family)
    if description.tokenizers:
        _check_prompted(config)
    else:
        _check_architecture(config.model, description)
        _check_unconditional(config, description)
    check_flow_limits(config, description)
    _check_parts(config.lora, description)
    _check_captions(config.data.captions, description)
    _check_weights(config.model, config.lora, description)
    _check_methods(config.lora, description)
    require(
        config.trainer.offload != "blocks" or config.model.quantise != "nf4",
        "trainer.offload",
        "blocks",
        "brings no layers of bitsandbytes, which keep their weights until the backward pass; set "
        "model.quantise=int8, or this to true",
    )


def check_model(config: ModelConfig) -> None:
    """Refuse an unknown family, and keys of the model that the family does not support.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    description = description_of(config.family)
    require(
        description.is_clip or config.clip_skip == 0,
        "model.clip_skip",
        config.clip_skip,
        f"{description.kind} has no CLIP to leave layers out of; set it to 0",
    )
    require(
        description.is_flow or config.draw_with is None,
        "model.draw_with",
        config.draw_with,
        f"another base draws for transformers of flow matching; {description.kind} draws by itself:"
        " leave it out",
    )
    require(
        config.draw_with is None or config.draw_with != config.path,
        "model.draw_with",
        config.draw_with,
        "is the base itself, which draws anyway; leave it out, or name the checkpoint of few steps "
        "that was distilled from it",
    )
    for part in config.scratch:
        require_choice("model.scratch", part, tuple(description.trainable))
    require(
        config.quantise != "nf4" or find_spec("bitsandbytes") is not None,
        "model.quantise",
        config.quantise,
        "needs a package that is not installed; pip install bitsandbytes, or set it to int8, which "
        "needs none, or to null",
    )


def check_side(resolution: int, folder: Path, source: ModelSource) -> None:
    """Refuse to train a pixel model on a side that its pipeline does not draw; reads no weight.

    Raises:
        ConfigError: Naming the side.
    """
    description = description_of(source.family)
    if description.tokenizers:
        return
    side = part_config(description.denoiser, folder, source).get("sample_size")
    key = "model.architecture.sample_size" if source.architecture else f"model.path={source.path}"
    require(
        side == resolution,
        "data.resolution",
        resolution,
        f"its pictures have a side of {side} pixels ({key}); set data.resolution={side}",
    )


def _check_parts(lora: LoraConfig, description: FamilyDescription) -> None:
    """Check that the configured parts exist, have a method, and can train."""
    known = {part for each in families().values() for part in each.parts}
    for name in lora.parts.keys() - known:
        near = get_close_matches(name, description.trainable, n=1)
        hint = f"did you mean lora.{near[0]}? " if near else ""
        raise ConfigError(
            f"lora.{name}: no such part; {hint}{description.kind} trains "
            f"{', '.join(description.trainable)}"
        )
    for name, method in lora.methods(description.parts).items():
        if name in description.trainable:
            require(
                method is not None,
                f"lora.{name}.method",
                "null",
                f"this part has no training method; set it to lora (with lora.{name}.targets), "
                "full or frozen",
            )
        else:
            require(
                method in ("frozen", None),
                f"lora.{name}.method",
                method,
                f"the {name.replace('_', ' ')} of {description.kind} cannot be trained; set "
                f"lora.{name}.method=frozen",
            )


def _check_methods(lora: LoraConfig, description: FamilyDescription) -> None:
    """Check that some part trains, and that DoRA is used on the denoiser only."""
    denoiser, methods = description.denoiser, lora.methods(description.trainable)
    require(
        set(methods.values()) != {"frozen"} or lora.new_word.name is not None,
        f"lora.{denoiser}.method",
        methods[denoiser],
        f"leaves no part of {description.kind} to train; its parts: {', '.join(methods)}",
    )
    adapted = [part for part in description.trainable_encoders if methods[part] == "lora"]
    require(
        not (lora.use_dora and lora.type == "lora" and adapted),
        "lora.use_dora",
        True,
        f"works on {denoiser} only; set lora.{adapted[0] if adapted else ''}.method=frozen",
    )


def _check_weights(model: ModelConfig, lora: LoraConfig, description: FamilyDescription) -> None:
    """Check that random weights train, and quantised ones do not."""
    for part in model.scratch:
        require(
            lora.part(part).method == "full",
            "model.scratch",
            part,
            f"random weights must all train; set lora.{part}.method=full",
        )
    denoiser = description.denoiser
    has_start = lora.type == "lora" and lora.init in FROM_BASE
    needs_weights = lora.part(denoiser).method == "full" or has_start
    require(
        model.quantise is None or not needs_weights,
        "model.quantise",
        model.quantise,
        f"rounded weights can neither train (lora.{denoiser}.method=full) nor initialise an "
        "adapter (lora.init=pissa or olora); set it to null",
    )
    require(
        model.draw_with is None or lora.part(denoiser).method == "lora",
        "model.draw_with",
        model.draw_with,
        f"draws with the adapter of the trained base, and lora.{denoiser}.method="
        f"{lora.part(denoiser).method} trains none; leave it out",
    )
    require(
        model.quantise is None or lora.type == "lora" or lora.part(denoiser).method != "lora",
        "model.quantise",
        model.quantise,
        f"a {TITLES[lora.type]} computes with the weights themselves, which are rounded; set it "
        "to null, or lora.type=lora",
    )


def _check_captions(captions: CaptionsConfig, description: FamilyDescription) -> None:
    require(
        description.is_clip or captions.max_chunks == 1,
        "data.captions.max_chunks",
        captions.max_chunks,
        f"{description.kind} reads captions in one piece, of {description.max_tokens or 'no'} "
        "tokens; set it to 1",
    )


def _check_prompted(config: TrainConfig) -> None:
    """Check keys that a model with prompts needs, or does not have."""
    require(
        config.sampling.prompts is not None,
        "sampling.prompts",
        "null",
        "this model takes prompts; name a text file with one prompt for each line",
    )
    require(
        not config.model.architecture,
        "model.architecture",
        config.model.architecture,
        "this model's folder brings its own; leave it out",
    )


def _check_unconditional(config: TrainConfig, description: FamilyDescription) -> None:
    """Refuse prompts, scores of prompts and adapters for an unconditional model."""
    adapter = "an adapter cannot be exported for it"
    no_prompts = f"an {description.kind} takes no prompts"
    denoisers = {each.denoiser for each in families().values()}
    method = config.lora.part(description.denoiser).method
    others = {n: each.method for n, each in config.lora.parts.items() if n not in denoisers}
    sampling, evaluation = config.sampling, config.evaluation
    rules = {
        f"lora.{description.denoiser}.method": (method, "full", adapter),
        **{f"lora.{part}.method": (each, "frozen", "it has none") for part, each in others.items()},
        "model.vae": (config.model.vae, None, "it works on pixels"),
        "data.buckets.mode": (config.data.buckets.mode, "square", "its pictures have one size"),
        "data.trigger_word": (config.data.trigger_word, None, no_prompts),
        "data.prior.mode": (config.data.prior.mode, "none", no_prompts),
        "sampling.prompts": (sampling.prompts, None, no_prompts),
        "sampling.guidance_scale": (sampling.guidance_scale, 1.0, no_prompts),
        "evaluation.clip.name": (evaluation.clip.name, "none", no_prompts),
        "evaluation.prior_prompts": (evaluation.prior_prompts, 0, no_prompts),
        "evaluation.hw10": (evaluation.hw10, False, no_prompts),
    }
    for key, (value, needed, reason) in rules.items():
        must = "null" if needed is None else str(needed).lower()
        remedy = f"set it to {must}, or use experiment=unconditional, which sets all of these keys"
        require(value == needed, key, value, f"{reason}; {remedy}")


def _check_architecture(config: ModelConfig, description: FamilyDescription) -> None:
    """Check ``model.architecture`` by building the network without memory for its weights."""
    if config.path is not None:
        return
    kind = description.parts[description.denoiser]
    check_options("model.architecture", kind, config.architecture)
    try:
        with torch.device("meta"):
            kind(**config.architecture)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, IndexError) as error:
        message = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.architecture={config.architecture}: is no valid {kind.__name__} ({message})"
        ) from error
