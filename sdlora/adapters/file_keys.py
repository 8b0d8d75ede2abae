"""Keys of plain LoRA weights in the file layouts that are written."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from sdlora.adapters.layer_paths import CLIP_INSIDE
from sdlora.models.description import PartNames

Layers = dict[str, dict[str, Tensor]]
"""Layer name -> ``A``, ``B``, and optionally ``magnitude`` and ``alpha``."""

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
        if not names[part].kohya:
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
