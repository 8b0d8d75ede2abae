"""Transformers of Z-Image and FLUX.2 klein in one file, under their original code's names."""

import re

import torch
from torch import Tensor

Weights = dict[str, Tensor]

Z_IMAGE = {
    "all_final_layer.2-1.": "final_layer.",
    "all_x_embedder.2-1.": "x_embedder.",
    ".attention.to_out.0.": ".attention.out.",
    ".attention.norm_q.": ".attention.q_norm.",
    ".attention.norm_k.": ".attention.k_norm.",
}

KLEIN = {
    "x_embedder.": "img_in.",
    "context_embedder.": "txt_in.",
    "time_guidance_embed.timestep_embedder.linear_1.": "time_in.in_layer.",
    "time_guidance_embed.timestep_embedder.linear_2.": "time_in.out_layer.",
    "_modulation_img.linear.": "_modulation_img.lin.",
    "_modulation_txt.linear.": "_modulation_txt.lin.",
    "single_stream_modulation.linear.": "single_stream_modulation.lin.",
    "proj_out.": "final_layer.linear.",
    "norm_out.linear.": "final_layer.adaLN_modulation.1.",
    "single_transformer_blocks.": "single_blocks.",
    "transformer_blocks.": "double_blocks.",
    ".attn.to_qkv_mlp_proj.": ".linear1.",
    ".attn.to_out.weight": ".linear2.weight",
    ".attn.norm_added_q.weight": ".txt_attn.norm.query_norm.scale",
    ".attn.norm_added_k.weight": ".txt_attn.norm.key_norm.scale",
    ".attn.to_out.0.": ".img_attn.proj.",
    ".attn.to_add_out.": ".txt_attn.proj.",
    ".ff.linear_in.": ".img_mlp.0.",
    ".ff.linear_out.": ".img_mlp.2.",
    ".ff_context.linear_in.": ".txt_mlp.0.",
    ".ff_context.linear_out.": ".txt_mlp.2.",
    ".attn.add_q_proj.": ".txt_attn.to_q.",
    ".attn.add_k_proj.": ".txt_attn.to_k.",
    ".attn.add_v_proj.": ".txt_attn.to_v.",
}


def original_z_image(weights: Weights) -> Weights:
    """Weights of the transformer as Tongyi-MAI's code and ComfyUI name them."""
    return _fused({_renamed(name, Z_IMAGE): value for name, value in weights.items()})


def original_klein(weights: Weights) -> Weights:
    """Weights of the transformer as Black Forest Labs' code names them."""
    found = {}
    for name, value in weights.items():
        new = _renamed(name, KLEIN)
        norm = "norm" if new.startswith("single_blocks.") else "img_attn.norm"
        new = re.sub(r"\.attn\.norm_q\.weight$", f".{norm}.query_norm.scale", new)
        new = re.sub(r"\.attn\.norm_k\.weight$", f".{norm}.key_norm.scale", new)
        new = re.sub(r"\.attn\.to_([qkv])\.", r".img_attn.to_\1.", new)
        if "adaLN_modulation" in new:  # shift and scale in the other order
            value = torch.cat(value.chunk(2)[::-1])
        found[new] = value
    return _fused(found)


def _renamed(name: str, words: dict[str, str]) -> str:
    for ours, theirs in words.items():
        name = name.replace(ours, theirs)
    return name


def _fused(weights: Weights) -> Weights:
    """Query, key and value in one matrix."""
    found = dict(weights)
    for name in weights:
        if name.endswith(".to_q.weight"):
            place = name.removesuffix("to_q.weight")
            parts = [found.pop(f"{place}to_{each}.weight") for each in "qkv"]
            found[f"{place}qkv.weight"] = torch.cat(parts)
    return found
