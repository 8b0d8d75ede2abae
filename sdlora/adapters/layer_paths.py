"""Layers of files by part and name in diffusers, from every spelling of a U-Net's or CLIP's."""

import re
from collections.abc import Mapping
from functools import lru_cache

from sdlora.models.original_names import diffusers_name

CLIP_INSIDE = "text_model."
"""Prefix of a CLIP text encoder's layers (except its projection) in files and in transformers
before 5. transformers 5 kept it in ``CLIPTextModelWithProjection`` only."""

FLAT = {
    "lora_unet_": "unet",
    "lycoris_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
}
"""Prefixes of names that have ``_`` for ``.``: kohya's, and LyCORIS' own (as in SimpleTuner)."""

DOTTED = {
    "unet.": "unet",
    "diffusion_model.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_h.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "clip_l.transformer.": "text_encoder",
    "clip_h.transformer.": "text_encoder",
    "clip_g.transformer.": "text_encoder_2",
    "clip_l.": "text_encoder",
    "clip_h.": "text_encoder",
    "clip_g.": "text_encoder_2",
}
"""Prefixes of names with dots: diffusers' parts, ComfyUI's models, and the Open Model
Initiative's text encoders (OMI)."""

_WRAPPERS = ("base_model.model.", "model.")
"""peft's and ComfyUI's wrapping of a whole model, in front of everything else."""

_UNET_ROOTS = (
    *("conv_in", "conv_out", "conv_norm_out", "time_embedding", "add_embedding"),
    *("down_blocks", "mid_block", "up_blocks", "encoder_hid_proj", "class_embedding"),
)
_SGM_ROOTS = ("input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out")
_TEXT_ROOTS = ("encoder", "text_projection", "embeddings", "final_layer_norm")

_WORDS = (
    *_UNET_ROOTS,
    *_SGM_ROOTS,
    *_TEXT_ROOTS,
    *("transformer_blocks", "to_q", "to_k", "to_v", "to_out", "proj_in", "proj_out"),
    *("add_k_proj", "add_v_proj", "conv_shortcut", "time_emb_proj", "linear_1", "linear_2"),
    *("in_layers", "out_layers", "emb_layers", "skip_connection", "text_model", "self_attn"),
    *("q_proj", "k_proj", "v_proj", "out_proj", "layer_norm1", "layer_norm2"),
    *("token_embedding", "position_embedding"),
)
"""Names of modules that have a ``_`` of their own."""

_TOKEN = re.compile("|".join([*sorted(_WORDS, key=len, reverse=True), "[^_]+"]))


def dotted(flat: str) -> str:
    """A name with ``_`` for every dot, with its dots."""
    return ".".join(_TOKEN.findall(flat))


@lru_cache(maxsize=16384)
def place_of(name: str, layers_per_block: int = 2) -> tuple[str, str] | None:
    """Part and layer of a name in a file, without the end that says the tensor's role.

    Args:
        name: In any spelling of a U-Net or CLIP text encoder.
        layers_per_block: Resnets per block of the U-Net, for block names of the original Stable
            Diffusion code (``input_blocks_4_1``); 2 in every released Stable Diffusion.

    Returns:
        The part, and the layer's name in diffusers, in CLIP without ``text_model.``; ``None`` if
        it is of neither.
    """
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    part, layer = _part_and_rest(name)
    if part is None:
        root = layer.removeprefix(CLIP_INSIDE).split(".")[0]
        part = "text_encoder" if root in _TEXT_ROOTS else "unet"
    return _in_part(part, layer, layers_per_block)


def _part_and_rest(name: str) -> tuple[str | None, str]:
    for prefix, part in DOTTED.items():
        if name.startswith(prefix):
            return part, name.removeprefix(prefix)
    for prefix, part in FLAT.items():
        if name.startswith(prefix):
            return part, dotted(name.removeprefix(prefix))
    return None, name


def _in_part(part: str, layer: str, layers_per_block: int) -> tuple[str, str] | None:
    if part != "unet":
        layer = layer.removeprefix(CLIP_INSIDE)
        layer = re.sub(r"\.to_([qkv])\Z", r".\1_proj", layer)  # diffusers' first text encoders
        layer = re.sub(r"\.to_out\Z", ".out_proj", layer)
        return (part, layer) if layer.split(".")[0] in _TEXT_ROOTS else None
    layer = layer.replace(".processor.", ".")
    layer = re.sub(r"\.to_out\Z", ".to_out.0", layer)
    root = layer.split(".")[0]
    if root in _SGM_ROOTS:
        found = diffusers_name(layer, layers_per_block)
        return None if found is None else (part, found)
    return (part, layer) if root in _UNET_ROOTS else None


def without_prefix(name: str, prefixes: Mapping[str, str]) -> str:
    """A name without the first of these prefixes that it has."""
    found = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return name.removeprefix(found)
