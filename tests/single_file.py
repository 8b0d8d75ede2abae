"""Pipelines as one checkpoint: the names that the original Stable Diffusion code gives its weights.

Written from that code (CompVis ``latent-diffusion``, Stability's ``generative-models``, OpenCLIP):
its UNet counts blocks through all levels, its VAE's decoder counts levels from the top, OpenCLIP
holds query, key and value in one matrix.
"""

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE = {
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def write_single_file(
    path: Path, pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline, open_clip: bool
) -> Path:
    """Write a pipeline as one file.

    Args:
        path: The ``.safetensors`` file.
        pipeline: SD, or SDXL.
        open_clip: Whether the text encoder of SD is OpenCLIP (2.x); SDXL's second always is.
    """
    found = {
        **_starting("model.diffusion_model.", _unet(pipeline.unet)),
        **_starting("first_stage_model.", original_vae(pipeline.vae)),
    }
    first = {_bare(k): v for k, v in pipeline.text_encoder.state_dict().items()}
    if isinstance(pipeline, StableDiffusionXLPipeline):
        second = {_bare(k): v for k, v in pipeline.text_encoder_2.state_dict().items()}
        found |= _starting("conditioner.embedders.0.transformer.text_model.", first)
        found |= _starting("conditioner.embedders.1.model.", _open_clip(second))
    elif open_clip:
        found |= _starting("cond_stage_model.model.", _open_clip(first))
    else:
        found |= _starting("cond_stage_model.transformer.text_model.", first)
    save_file({key: value.contiguous() for key, value in found.items()}, path)
    return path


def _starting(start: str, weights: Weights) -> Weights:
    return {start + key: value for key, value in weights.items()}


def _bare(key: str) -> str:
    return key.removeprefix("text_model.")


def _renamed(key: str, names: dict[str, str]) -> str:
    for name, original in names.items():
        key = re.sub(
            rf"(?<![\w.]){re.escape(name)}(?=\.|$)|(?<=\.){re.escape(name)}(?=\.|$)", original, key
        )
    return key


def _unet(unet: Any) -> Weights:
    depth, layers = len(unet.config.block_out_channels), unet.config.layers_per_block
    places = dict(UNET)
    number = 1  # after conv_in
    for level in range(depth):
        block = f"down_blocks.{level}"
        for layer in range(layers):
            places[f"{block}.resnets.{layer}"] = f"input_blocks.{number}.0"
            places[f"{block}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        places[f"{block}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
        number += level < depth - 1
    number = 0
    for level in range(depth):
        block = f"up_blocks.{level}"
        attends = hasattr(unet.up_blocks[level], "attentions")
        for layer in range(layers + 1):
            places[f"{block}.resnets.{layer}"] = f"output_blocks.{number}.0"
            places[f"{block}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        places[f"{block}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{1 + attends}.conv"
    weights = {}
    for key, value in unet.state_dict().items():
        place = max((p for p in places if key.startswith(f"{p}.")), key=len)
        rest = key.removeprefix(place)
        weights[places[place] + (_renamed(rest, RESNET) if "resnets" in place else rest)] = value
    return weights


def original_vae(vae: Any) -> Weights:
    """Weights of a VAE under the original code's names."""
    last = len(vae.config.block_out_channels) - 1
    weights = {}
    for key, value in vae.state_dict().items():
        key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
        key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
        key = re.sub(
            r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)",
            lambda m: f"up.{last - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}",
            key,
        )
        is_matrix = "attentions" in key and value.ndim == 2  # a convolution of one pixel there
        weights[_renamed(key, VAE)] = value[:, :, None, None] if is_matrix else value
    return weights


def _open_clip(weights: Weights) -> Weights:
    found: Weights = {}
    for key, value in weights.items():
        if match := re.fullmatch(r"(.*self_attn)\.q_proj\.(weight|bias)", key):
            three = [weights[f"{match[1]}.{each}_proj.{match[2]}"] for each in "qkv"]
            found[f"{_renamed(match[1], OPEN_CLIP)}.in_proj_{match[2]}"] = torch.cat(three)
        elif key == "text_projection.weight":
            found["text_projection"] = value.T
        elif not re.search(r"\.[kv]_proj\.", key):
            found[_renamed(key, OPEN_CLIP)] = value
    return found
