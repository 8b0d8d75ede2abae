"""Load the parts of a base model."""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from sdlora.models.family import Family
from sdlora.models.layouts import LAYOUTS, Layout, layout_of
from sdlora.models.source import (
    ModelError,
    ModelSource,
    check_folder,
    noise_schedule_config,
    part_config,
    part_folder,
    resolve,
)


def families() -> dict[str, Callable[[ModelSource, int], Family]]:
    """Model families by name: the built-in ones, and those that installed packages add."""
    added = {entry.name: entry.load() for entry in entry_points(group="sdlora.models")}
    return {**dict.fromkeys(LAYOUTS, load_family), **added}


def load_family(source: ModelSource, seed: int) -> Family:
    """Load a base model of a built-in family, or any model of its layout.

    Args:
        source: Where from, and in which precision.
        seed: For the parts that start from random weights.

    Raises:
        ModelError: If a file is missing or not whole, or the model is of another kind; the message
            names it.
    """
    folder = resolve(source)
    check_folder(folder, source)
    layout = layout_of(source.family)
    parts = {name: _load_part(name, folder, source, seed) for name in layout.parts}
    _check_kind(source, parts, layout)
    clip_skip = {"clip_skip": source.clip_skip} if layout.tokenizers else {}
    return layout.make(
        **parts,
        **dict(zip(layout.tokenizers, load_tokenizers(folder, source.family), strict=True)),
        noise_schedule_config=noise_schedule_config(source),
        **clip_skip,
    )


def load_tokenizers(folder: Path, family: str) -> list[Any]:
    """The tokenizers alone, of a whole folder; captions are checked with them before any weight."""
    layout = layout_of(family)
    known = {} if layout.max_tokens is None else {"model_max_length": layout.max_tokens}
    return [
        kind.from_pretrained(folder / name, **known) for name, kind in layout.tokenizers.items()
    ]


def empty_part(name: str, source: ModelSource) -> nn.Module:
    """A part without weights, on torch's meta device: names and shapes of its layers.

    Raises:
        ModelError: If its ``config.json`` or another file of the folder is missing.
    """
    folder = resolve(source)
    check_folder(folder, source)
    with torch.device("meta"):
        return _from_config(name, folder, source)


def _check_kind(source: ModelSource, parts: Mapping[str, Any], layout: Layout) -> None:
    """Refuse what has the layout but not the shape: another family, inpainting, a mixture."""
    if "vae" not in parts:
        _check_unconditional(source, parts["unet"].config, layout)
        return
    unet, vae = parts["unet"].config, parts["vae"].config
    found = _family_of(unet)
    if LAYOUTS[found] is not layout:
        raise ModelError(
            f"model.path={source.path}: its UNet is that of {LAYOUTS[found].kind}, no "
            f"{layout.kind}; set model.family={found}"
        )
    encoders = [part for name, part in parts.items() if name.startswith("text_encoder")]
    width = sum(encoder.config.hidden_size for encoder in encoders)
    text = "encoder_hid_dim" if unet.get("encoder_hid_dim") else "cross_attention_dim"
    for what, has, needs in (
        ("unet's in_channels", unet.in_channels, vae.latent_channels),
        (f"unet's {text}", unet[text], width),
    ):
        if has != needs:
            raise ModelError(
                f"model.path={source.path}: {what} is {has}, where vae and text encoders give "
                f"{needs}: no text-to-image {layout.kind}; choose another model"
            )


def _check_unconditional(source: ModelSource, unet: Mapping[str, Any], layout: Layout) -> None:
    told = unet["num_class_embeds"] or unet["class_embed_type"]
    for what, has, needs in (
        ("in_channels", unet["in_channels"], 3),
        ("out_channels", unet["out_channels"], 3),
        ("class embedding", told, None),
    ):
        if has != needs:
            key = "model.architecture" if source.architecture else f"model.path={source.path}"
            raise ModelError(
                f"{key}: the unet's {what} is {has}, not {needs}: no {layout.kind}; choose another"
            )


def _family_of(unet: Mapping[str, Any]) -> str:
    """The family that has such UNets."""
    if unet.get("encoder_hid_dim_type") == "text_proj":
        return "kolors"
    return "sdxl" if unet.get("addition_embed_type") == "text_time" else "sd"


def _load_part(name: str, folder: Path, source: ModelSource, seed: int) -> nn.Module:
    kind = layout_of(source.family).parts[name]
    if name in source.scratch:
        return _random_part(name, folder, source, seed)
    own = name == "vae" and source.vae is not None
    where = f"model.vae={source.vae}" if own else f"model.path={source.path}: {name}"
    frozen = source.vae_dtype if name == "vae" and source.vae_dtype else source.frozen_dtype
    argument = "dtype" if name.startswith("text_encoder") else "torch_dtype"
    try:
        part, report = kind.from_pretrained(
            part_folder(name, folder, source),
            variant=None if own else source.variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **{argument: torch.float32 if name in source.trained else frozen},
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{where} cannot be loaded ({error}); fetch it again") from error
    if report["missing_keys"]:  # the libraries would go on with random weights there
        keys = sorted(report["missing_keys"])
        raise ModelError(
            f"{where}: its files lack {len(keys)} weights ({', '.join(keys[:3])}); fetch it again"
        )
    return part


def _random_part(name: str, folder: Path, source: ModelSource, seed: int) -> nn.Module:
    """Random float32 weights, a function of the seed; the caller's generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _from_config(name, folder, source)


def _from_config(name: str, folder: Path, source: ModelSource) -> nn.Module:
    kind = layout_of(source.family).parts[name]
    if name.startswith("text_encoder"):
        return kind(kind.config_class.from_pretrained(folder / name))
    return kind.from_config(part_config(name, folder, source))
