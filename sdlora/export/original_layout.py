"""Weights of a pipeline in Stable Diffusion's original layout, which ComfyUI and A1111 read."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdlora.adapters.file_keys import clip_name
from sdlora.adapters.layer_paths import CLIP_INSIDE
from sdlora.models.original_names import unet_name

VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPENCLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
}
QKV = re.compile(r"(?P<layer>.+\.attn)\.(?P<which>[qkv])_proj\.(?P<kind>weight|bias)")


def original_tensors(pipeline: Any) -> dict[str, Tensor]:
    """All weights of a Stable Diffusion 1, 2 or XL under the names of the original code.

    Args:
        pipeline: A diffusers pipeline, without an adapter.

    Raises:
        ValueError: If a weight has no name there.

    Source:
        CompVis/stable-diffusion ``ldm`` and Stability-AI/generative-models ``sgm``: the modules'
        names; OpenCLIP's ``transformer.py`` for the text encoders of 2 and XL.
    """
    unet, vae = pipeline.unet, pipeline.vae
    per_block, levels = unet.config.layers_per_block, len(vae.config.block_out_channels)
    attention = [hasattr(block, "attentions") for block in unet.up_blocks]
    tensors = _named(
        "model.diffusion_model.", unet, lambda key: unet_name(key, per_block, attention)
    )
    tensors |= _named("first_stage_model.", vae, lambda key: vae_name(key, levels))
    for key in [key for key in tensors if re.search(r"mid\.attn_1\.(q|k|v|proj_out)\.weight", key)]:
        tensors[key] = tensors[key][:, :, None, None]  # a 1x1 convolution there
    first, second = pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)
    if second is not None:
        tensors |= _clip("conditioner.embedders.0.", first)
        return tensors | _openclip("conditioner.embedders.1.", second)
    is_openclip = first.config.hidden_act != "quick_gelu"  # by which OpenAI's CLIP is known
    return tensors | (_openclip if is_openclip else _clip)("cond_stage_model.", first)


def vae_name(key: str, levels: int) -> str:
    """A VAE weight's name in the original code, which counts the decoder's blocks from below.

    Args:
        key: Its name in diffusers.
        levels: Number of blocks on each side.
    """
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(
        r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)",
        lambda m: f"up.{levels - 1 - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}",
        key,
    )
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0." in key:
        head, _, rest = key.partition("mid_block.attentions.0.")
        layer, _, kind = rest.rpartition(".")
        return f"{head}mid.attn_1.{VAE_ATTENTION[layer]}.{kind}"
    return key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _clip(prefix: str, text_encoder: Any) -> dict[str, Tensor]:
    """OpenAI's text encoder, named as in transformers."""
    state = text_encoder.state_dict()
    return {f"{prefix}transformer.{clip_name(key)}": value for key, value in state.items()}


def _openclip(prefix: str, text_encoder: Any) -> dict[str, Tensor]:
    """OpenCLIP's text encoder, with its own names; query, key and value are one matrix there."""
    found: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for key, value in text_encoder.state_dict().items():
        name = f"{prefix}model.{key.removeprefix(CLIP_INSIDE)}"
        if key == "text_projection.weight":
            found[name.removesuffix(".weight")] = value.T
            continue
        for ours, theirs in OPENCLIP.items():
            name = name.replace(ours, theirs)
        match = QKV.fullmatch(name)
        if match is None:
            found[name] = value
        else:
            whole = f"{match['layer']}.in_proj_{match['kind']}"
            thirds.setdefault(whole, {})[match["which"]] = value
    return found | {name: torch.cat([each[w] for w in "qkv"]) for name, each in thirds.items()}


def _named(prefix: str, module: Any, rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {prefix + rename(key): value for key, value in module.state_dict().items()}
