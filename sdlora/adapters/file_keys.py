"""Keys of adapter weights in each file layout, and their part, layer and role."""

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

from sdlora.adapters.spec import LoraError, listing
from sdlora.models.description import PartNames
from sdlora.models.families import part_names
from sdlora.models.original_names import ONLY_SGM

Layout = Literal["diffusers", "kohya", "peft"]
Layers = dict[str, dict[str, Tensor]]
"""Layer name -> ``A``, ``B``, and optionally ``magnitude`` and ``alpha``."""

CLIP_INSIDE = "text_model."
"""Prefix of a CLIP text encoder's layers (except its projection) in files and in transformers
before 5. transformers 5 kept it in ``CLIPTextModelWithProjection`` only."""

KOHYA_KINDS = {
    "lora_down.weight": "A",
    "lora_up.weight": "B",
    "alpha": "alpha",
    "dora_scale": "magnitude",
}
PEFT_KEY = re.compile(
    r"(?P<layer>.+)\.(?:lora_(?P<matrix>[AB])\.weight|(?P<magnitude>lora_magnitude_vector)"
    r"(?:\.weight)?|(?P<alpha>alpha))"
)


def sort_by_layer(
    path: Path,
    tensors: Mapping[str, Tensor],
    layout: Layout,
    layers_per_block: int,
    part: str | None = None,
) -> dict[str, Layers]:
    """Sort tensors by part, layer and role; unknown keys are an error.

    Args:
        path: For messages.
        tensors: Tensors of a file of this layout.
        layout: Layout of the names; ``diffusers`` covers all versions of that layout.
        layers_per_block: Resnets per block of the UNet, for block names of the original Stable
            Diffusion code.
        part: Part of keys that name none (peft); ``None``: a denoiser or the first text encoder,
            by their names.

    Returns:
        For each part the layers by their names in diffusers; those of CLIP without
        ``text_model.``

    Raises:
        LoraError: Listing unknown keys, and layers without both matrices.
    """
    names = part_names()
    sorted_parts: dict[str, Layers] = {name: {} for name in names}
    unknown = []
    for key, value in tensors.items():
        if layout == "kohya":
            place = _kohya_place(key, layers_per_block, names)
        else:
            place = _peft_place(key, names, part)
        if place is None:
            unknown.append(key)
            continue
        name, layer, kind = place
        found = sorted_parts[name].setdefault(layer, {})
        if kind in found:
            unknown.append(f"{key}: a second one for {name} {layer}")
        found[kind] = value
    unknown += [
        f"{layer}: has only {', '.join(sorted(found))}"
        for layers in sorted_parts.values()
        for layer, found in layers.items()
        if not found.keys() >= {"A", "B"}
    ]
    if unknown or not tensors:
        raise LoraError(
            f"{path}: {len(unknown) or 'no'} keys that are no LoRA of a UNet or a CLIP text encoder"
            f"{listing(unknown)}\nLoHa, LoKr and embeddings are not supported."
        )
    return sorted_parts


def parse_key(key: str) -> tuple[str, str]:
    """Layer and role (``A``, ``B``, ``magnitude``, ``alpha``) of a raw peft key."""
    match = PEFT_KEY.fullmatch(key)
    assert match is not None, key
    kind = match["matrix"] or ("magnitude" if match["magnitude"] else "alpha")
    return match["layer"], kind


def clip_name(layer: str) -> str:
    """Name in files of a layer of a CLIP text encoder, for any version of transformers."""
    if layer.startswith("text_projection"):
        return layer
    return CLIP_INSIDE + layer.removeprefix(CLIP_INSIDE)


def to_diffusers(
    states: Mapping[str, Mapping[str, Tensor]], names: Mapping[str, PartNames]
) -> dict[str, Tensor]:
    """Keys of the diffusers layout: raw peft keys behind the part's name.

    Raw keys, since diffusers' own converter renames attention keys only and its loader then drops
    the others. Keys of text encoders get the prefix ``text_model.``, which transformers before 5,
    ComfyUI and A1111 expect.

    Args:
        states: For each part the raw peft state.
        names: Names of the family's parts in files.
    """
    return {
        f"{part}.{clip_name(key) if names[part].is_clip else key}": value
        for part, state in states.items()
        for key, value in state.items()
    }


def to_kohya(
    states: Mapping[str, Mapping[str, Tensor]],
    alphas: Mapping[str, Mapping[str, float]],
    names: Mapping[str, PartNames],
) -> dict[str, Tensor]:
    """Keys of the kohya layout, which ComfyUI and A1111 read.

    Written here and not by diffusers' ``convert_state_dict_to_kohya``, which puts the rank where
    alpha belongs and leaves DoRA and ``text_model.`` out.

    Args:
        states: For each part the raw peft state.
        alphas: For each part, effective alpha (scale times rank) by layer name.
        names: Names of the family's parts in files.

    Source:
        kohya-ss/sd-scripts, networks/lora.py.
    """
    kinds = {kind: name for name, kind in KOHYA_KINDS.items()}
    tensors: dict[str, Tensor] = {}
    for part, state in states.items():
        if names[part].folds_alpha:
            tensors |= to_diffusers({part: state}, names)
            continue
        for key, value in state.items():
            layer, kind = parse_key(key)
            name = clip_name(layer) if names[part].is_clip else names[part].layer(layer)
            stem = names[part].kohya[0] + name.replace(".", "_")
            if kind == "magnitude":  # one number an output channel, in front
                value = value.reshape(-1, *[1] * (state[f"{layer}.lora_A.weight"].ndim - 1))
            tensors[f"{stem}.{kinds[kind]}"] = value
            tensors[f"{stem}.alpha"] = torch.tensor(alphas[part][layer], dtype=torch.float32)
    return tensors


@lru_cache(maxsize=4096)
def _from_kohya(stem: str, layers_per_block: int) -> str | None:
    """``lora_unet_mid_block_..._to_q`` -> a key of the diffusers layout, by its own converter.

    One layer at a time: given a whole file the converter mixes up ``input_blocks_1`` and
    ``input_blocks_10``, and drops one of two spellings.
    """
    for layer, original in ONLY_SGM.items():
        name = layer.replace(".", "_")
        if stem.endswith(f"_{name}"):
            stem = stem.removesuffix(name) + original.replace(".", "_")
    pair = {f"{stem}.lora_{name}.weight": torch.zeros(1, 1) for name in ("down", "up")}
    shape = SimpleNamespace(layers_per_block=layers_per_block)
    try:
        converted, _ = StableDiffusionPipeline.lora_state_dict(pair, unet_config=shape)
    except (ValueError, KeyError, IndexError):
        return None
    upsampler = r"(up_blocks\.\d+)\.attentions\.\d+\.conv\."  # blocks without attention: SD 1 and 2
    return re.sub(upsampler, r"\1.upsamplers.0.conv.", next(iter(converted)))


def _kohya_place(
    key: str, layers_per_block: int, names: Mapping[str, PartNames]
) -> tuple[str, str, str] | None:
    stem, _, rest = key.partition(".")
    if rest not in KOHYA_KINDS or not stem.startswith(kohya_prefixes(names)):
        return None
    found = _from_kohya(stem, layers_per_block)
    place = None if found is None else _peft_place(found, names)
    return None if place is None else (*place[:2], KOHYA_KINDS[rest])


def kohya_prefixes(names: Mapping[str, PartNames]) -> tuple[str, ...]:
    """Prefixes of names in the kohya layout."""
    return tuple(prefix for each in names.values() for prefix in each.kohya)


def _peft_place(
    key: str, names: Mapping[str, PartNames], part: str | None = None
) -> tuple[str, str, str] | None:
    """Part, layer and role of a key of the peft layout or any version of the diffusers layout."""
    key = key.removeprefix("base_model.model.")
    is_text = key.startswith((CLIP_INSIDE, "encoder.layers.", "text_projection."))
    part = part or next(name for name, each in names.items() if each.is_clip == is_text)
    for name in names:
        if key.startswith(f"{name}."):
            part, key = name, key.removeprefix(f"{name}.")
    if not names[part].is_clip:
        (key,) = convert_unet_state_dict_to_peft({key: None})
    else:
        is_projection = key.startswith("text_projection.")
        style = StateDictType.DIFFUSERS if is_projection else StateDictType.DIFFUSERS_OLD
        (key,) = convert_state_dict_to_peft({key: None}, style)
        key = key.removeprefix(CLIP_INSIDE)
    if PEFT_KEY.fullmatch(key) is None:
        return None
    return part, *parse_key(key)
