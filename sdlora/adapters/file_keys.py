"""Names of adapter weights in each layout -> part, layer and role, and back."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from torch import Tensor

from sdlora.adapters.original_names import sdxl_layer
from sdlora.adapters.spec import LoraError, listing

Layout = Literal["diffusers", "kohya", "peft"]
Layers = dict[str, dict[str, Tensor]]
"""Layer name -> ``A``, ``B``, and maybe ``magnitude`` and ``alpha``."""

PARTS = ("unet", "text_encoder", "text_encoder_2")
"""Parts of a model that may carry an adapter: names in diffusers' pipelines, files and folders."""

CLIP_INSIDE = "text_model."
"""Where a CLIP text encoder's layers lie in transformers before 5 and in all files; its projection
lies beside it. transformers 5 kept it in ``CLIPTextModelWithProjection`` alone."""

KOHYA_KINDS = {
    "lora_down.weight": "A",
    "lora_up.weight": "B",
    "alpha": "alpha",
    "dora_scale": "magnitude",
}
SGM_ONLY = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
"""Layers of SDXL's UNet that diffusers reads from kohya files by the original code's names only;
ComfyUI and A1111 read those as well."""

PEFT_KEY = re.compile(
    r"(?P<layer>.+)\.(?:lora_(?P<matrix>[AB])\.weight|(?P<magnitude>lora_magnitude_vector)"
    r"(?:\.weight)?|(?P<alpha>alpha))"
)


def sort_by_layer(
    path: Path,
    tensors: Mapping[str, Tensor],
    layout: Layout,
    layers_per_block: int,
    text_encoder: str = "text_encoder",
) -> dict[str, Layers]:
    """Give each tensor its part, layer and role; what has none is an error, never left out.

    Args:
        path: For messages.
        tensors: As a file of this layout holds them.
        layout: Whose names they have; ``diffusers`` covers every age of that layout.
        layers_per_block: Of the UNet, for block names of the original Stable Diffusion code.
        text_encoder: Which part a text encoder's layers belong to where the keys name none (peft).

    Returns:
        For each of ``PARTS`` the layers, by their names in diffusers; those of text encoders
        without ``text_model.``

    Raises:
        LoraError: Listing keys that are none of these, and layers without both matrices.
    """
    parts: dict[str, Layers] = {part: {} for part in PARTS}
    unknown = []
    for key, value in tensors.items():
        if layout == "kohya":
            place = _kohya_place(key, layers_per_block)
        else:
            place = _peft_place(key, text_encoder)
        if place is None:
            unknown.append(key)
            continue
        part, layer, kind = place
        found = parts[part].setdefault(layer, {})
        if kind in found:
            unknown.append(f"{key}: a second one for {part} {layer}")
        found[kind] = value
    unknown += [
        f"{layer}: has only {', '.join(sorted(found))}"
        for layers in parts.values()
        for layer, found in layers.items()
        if not found.keys() >= {"A", "B"}
    ]
    if unknown or not tensors:
        raise LoraError(
            f"{path}: {len(unknown) or 'no'} keys that are no LoRA of a UNet or a CLIP text encoder"
            f"{listing(unknown)}\nLoHa, LoKr and embeddings are not supported."
        )
    return parts


def parse_key(key: str) -> tuple[str, str]:
    """Layer and role (``A``, ``B``, ``magnitude``, ``alpha``) of a raw peft key."""
    match = PEFT_KEY.fullmatch(key)
    assert match is not None, key
    kind = match["matrix"] or ("magnitude" if match["magnitude"] else "alpha")
    return match["layer"], kind


def clip_name(layer: str) -> str:
    """A layer of a CLIP text encoder as files name it, whatever transformers has it as."""
    if layer.startswith("text_projection"):
        return layer
    return CLIP_INSIDE + layer.removeprefix(CLIP_INSIDE)


def to_diffusers(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Keys of the diffusers layout: raw peft keys behind the part's name.

    Raw keys, since diffusers' own converter renames attention keys only and its loader then drops
    the others. ``text_model.`` goes in front of the text encoders', where transformers before 5,
    ComfyUI and A1111 look for it.

    Args:
        states: For each part the raw peft state.
    """
    return {
        f"{part}.{key if part == 'unet' else clip_name(key)}": value
        for part, state in states.items()
        for key, value in state.items()
    }


def to_kohya(
    states: Mapping[str, Mapping[str, Tensor]],
    alphas: Mapping[str, Mapping[str, float]],
    is_sdxl: bool = False,
) -> dict[str, Tensor]:
    """Keys of the kohya layout, which ComfyUI and A1111 read.

    Written here and not by diffusers' ``convert_state_dict_to_kohya``, which puts the rank where
    alpha belongs and leaves DoRA and ``text_model.`` out.

    Args:
        states: For each part the raw peft state.
        alphas: For each part, effective alpha (scale times rank) by layer name.
        is_sdxl: Whether the model is SDXL: its two text encoders are numbered, and its UNet has the
            original code's names, in which kohya's trainer trains it.

    Source:
        kohya-ss/sd-scripts, networks/lora.py.
    """
    prefixes = {
        "unet": "lora_unet_",
        "text_encoder": "lora_te1_" if is_sdxl else "lora_te_",
        "text_encoder_2": "lora_te2_",
    }
    names = {kind: name for name, kind in KOHYA_KINDS.items()}
    tensors = {}
    for part, state in states.items():
        for key, value in state.items():
            layer, kind = parse_key(key)
            if part != "unet":
                name = clip_name(layer)
            else:
                name = sdxl_layer(layer) if is_sdxl else SGM_ONLY.get(layer, layer)
            stem = prefixes[part] + name.replace(".", "_")
            if kind == "magnitude":  # one number an output channel, in front
                value = value.reshape(-1, *[1] * (state[f"{layer}.lora_A.weight"].ndim - 1))
            tensors[f"{stem}.{names[kind]}"] = value
            tensors[f"{stem}.alpha"] = torch.tensor(alphas[part][layer], dtype=torch.float32)
    return tensors


@lru_cache(maxsize=4096)
def _kohya_layer(stem: str, layers_per_block: int) -> tuple[str, str] | None:
    """``lora_unet_mid_block_..._to_q`` -> part and layer name, by diffusers' own converter.

    One layer at a time: given a whole file the converter mixes up ``input_blocks_1`` and
    ``input_blocks_10``, and drops one of two spellings.
    """
    if not stem.startswith(("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")):
        return None
    for layer, original in SGM_ONLY.items():
        if stem == f"lora_unet_{layer.replace('.', '_')}":
            stem = f"lora_unet_{original.replace('.', '_')}"
    pair = {f"{stem}.lora_{name}.weight": torch.zeros(1, 1) for name in ("down", "up")}
    shape = SimpleNamespace(layers_per_block=layers_per_block)
    try:
        converted, _ = StableDiffusionPipeline.lora_state_dict(pair, unet_config=shape)
    except (ValueError, KeyError, IndexError):
        return None
    place = _peft_place(next(iter(converted)))
    if place is None:
        return None
    part, layer, _ = place
    upsampler = r"(up_blocks\.\d+)\.attentions\.\d+\.conv$"  # blocks without attention: SD 1 and 2
    return part, re.sub(upsampler, r"\1.upsamplers.0.conv", layer)


def _kohya_place(key: str, layers_per_block: int) -> tuple[str, str, str] | None:
    stem, _, rest = key.partition(".")
    found = _kohya_layer(stem, layers_per_block)
    if found is None or rest not in KOHYA_KINDS:
        return None
    return *found, KOHYA_KINDS[rest]


def _peft_place(key: str, text_encoder: str = "text_encoder") -> tuple[str, str, str] | None:
    """Part, layer and role of a key of the peft layout or any age of the diffusers layout."""
    key = key.removeprefix("base_model.model.")
    is_text = key.startswith((CLIP_INSIDE, "encoder.layers.", "text_projection."))
    part = text_encoder if is_text else "unet"
    for name in PARTS:
        if key.startswith(f"{name}."):
            part, key = name, key.removeprefix(f"{name}.")
    if part == "unet":
        (key,) = convert_unet_state_dict_to_peft({key: None})
    else:
        is_projection = key.startswith("text_projection.")
        style = StateDictType.DIFFUSERS if is_projection else StateDictType.DIFFUSERS_OLD
        (key,) = convert_state_dict_to_peft({key: None}, style)
        key = key.removeprefix(CLIP_INSIDE)
    if PEFT_KEY.fullmatch(key) is None:
        return None
    return part, *parse_key(key)
