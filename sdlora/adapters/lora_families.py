"""Model families of LoRA files, recognised by the names and sizes of their layers: one table."""

from collections.abc import Mapping

from sdlora.adapters.family_clues import Clues, FoundFamily, LoraFamily, Size
from sdlora.adapters.family_fits import (
    DIFFUSERS_OF_Z_IMAGE,
    SIZED,
    flux_1,
    flux_2,
    kolors,
    qwen_image,
    stable_diffusion,
    width,
    xl,
    z_image,
)

_U_NET = r"^(?:down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_"


_JOINT = r"^transformer_blocks_\d+_attn_(?:add_[qkv]_proj|to_add_out)$"
_SINGLE = r"^single_transformer_blocks_\d+_"

LORA_FAMILIES = (
    LoraFamily(
        name="sd",
        title="Stable Diffusion 1",
        marks=(
            _U_NET,
            r"self_attn_q_proj|self_attn_\w_proj|mlp_fc[12]$",
            r"^(?:conv_in|conv_out)$",
        ),
        unless=(r"^lora_te2_|double_blocks|transformer_blocks_\d+_attn_to",),
        fits=stable_diffusion(768, 768),
        versions=("sd_v1", "stable-diffusion-v1"),
    ),
    LoraFamily(
        name="sd",
        title="Stable Diffusion 2",
        marks=(
            _U_NET,
            r"self_attn_q_proj|self_attn_\w_proj|mlp_fc[12]$",
            r"^(?:conv_in|conv_out)$",
        ),
        unless=(r"^lora_te2_|double_blocks|transformer_blocks_\d+_attn_to",),
        fits=stable_diffusion(1024, 1024),
        versions=("sd_v2", "stable-diffusion-v2"),
    ),
    LoraFamily(
        name="sdxl",
        title="Stable Diffusion XL",
        marks=(
            _U_NET,
            r"self_attn_\w+_proj|mlp_fc[12]$|text_projection",
            r"^(?:conv_in|conv_out)$",
            SIZED,
        ),
        fits=xl,
        versions=("sdxl", "stable-diffusion-xl"),
    ),
    LoraFamily(
        name="kolors",
        title="Kolors",
        marks=(_U_NET, SIZED, r"encoder_hid_proj"),
        fits=kolors,
        versions=("kolors",),
    ),
    LoraFamily(
        name="flux",
        title="FLUX.1",
        marks=(r"^double_blocks_\d+_img_", r"^single_blocks_\d+_linear", _SINGLE),
        unless=(r"_img_mlp_fc|_img_mod_linear|to_qkv_mlp_proj|distilled_guidance|token_refiner",),
        fits=flux_1,
        versions=("flux1", "flux-1", "flux.1"),
    ),
    LoraFamily(
        name="flux2_klein",
        title="FLUX.2",
        marks=(r"^double_blocks_\d+_img_", r"^single_blocks_\d+_linear", _SINGLE, _JOINT),
        unless=(
            r"_img_mlp_fc|_(?:img|txt)_mod_|_net_\d_|_mod_lin$|modulation_lin$|distilled_guidance|norm1_context|proj_mlp$",
        ),
        fits=flux_2,
        versions=("flux2", "flux-2", "flux.2"),
    ),
    LoraFamily(
        name="chroma",
        title="Chroma",
        marks=(r"distilled_guidance_layer",),
        fits=lambda clues: True,
        versions=("chroma",),
    ),
    LoraFamily(
        name="z_image",
        title="Z-Image",
        marks=(r"^(?:layers|noise_refiner|context_refiner)_\d+_(?:attention|feed_forward|adaLN)_",),
        fits=z_image,
        versions=("zimage", "z-image", "z_image"),
    ),
    LoraFamily(
        name="lumina2",
        title="Lumina Image 2",
        marks=(
            r"^(?:layers|noise_refiner|context_refiner)_\d+_(?:attention|feed_forward|adaLN)_",
            r"^layers_\d+_attn_to_q$",
        ),
        unless=(DIFFUSERS_OF_Z_IMAGE,),
        fits=width(2304, of=r"_attention_(?:qkv|out)$|_feed_forward_w[13]$|_attn_to_q$"),
        versions=("lumina",),
    ),
    LoraFamily(
        name="sd3",
        title="Stable Diffusion 3",
        marks=(r"^joint_blocks_\d+_(?:x|context)_block_", _JOINT),
        unless=(_SINGLE, r"_(?:img|txt)_(?:mlp|mod)_"),
        fits=width(1536, 2432, of=r"_attn_(?:qkv|to_q|add_q_proj)$"),
        versions=("sd3", "stable-diffusion-3"),
    ),
    LoraFamily(
        name="qwen_image",
        title="Qwen-Image",
        marks=(_JOINT, r"^transformer_blocks_\d+_(?:img|txt)_(?:mlp|mod)_"),
        unless=(_SINGLE, r"norm1_context|ff_context"),
        fits=qwen_image,
        versions=("qwen",),
    ),
    LoraFamily(
        name="krea2",
        title="Krea 2",
        marks=(
            r"^blocks_\d+_attn_w[qkvo]$",
            r"^transformer_blocks_\d+_attn_to_gate$",
            r"^text_fusion_",
        ),
        fits=lambda clues: True,
        versions=("krea2", "krea-2"),
    ),
    LoraFamily(
        name="anima",
        title="Anima (Cosmos-Predict2)",
        marks=(r"^blocks_\d+_(?:self|cross)_attn_(?:[qkv]_proj|output_proj)$", r"^llm_adapter_"),
        fits=lambda clues: True,
        versions=("anima",),
    ),
    LoraFamily(
        name="wan",
        title="Wan",
        marks=(r"^blocks_\d+_(?:self|cross)_attn_[qkvo]$", r"^blocks_\d+_ffn_"),
        fits=lambda clues: True,
        versions=("wan",),
    ),
    LoraFamily(
        name="hunyuan_video",
        title="HunyuanVideo",
        marks=(
            r"^double_blocks_\d+_(?:img|txt)_(?:mlp_fc|mod_linear)",
            r"individual_token_refiner",
            r"^context_embedder_token_refiner",
        ),
        fits=lambda clues: True,
        versions=("hunyuan-video", "hunyuan_video", "hunyuanvideo"),
    ),
    LoraFamily(
        name="pixart",
        title="PixArt",
        marks=(r"^transformer_blocks_\d+_attn1_to_q$", r"^blocks_\d+_cross_attn_(?:q|kv)_linear$"),
        fits=width(1152, of=r"_attn1_to_q$|_q_linear$"),
        versions=("pixart",),
    ),
    LoraFamily(
        name="ltx",
        title="LTX-Video",
        marks=(r"^transformer_blocks_\d+_attn1_to_q$",),
        unless=(r"_ff_conv_",),
        fits=width(2048, 4096, of=r"_attn1_to_q$"),
        versions=("ltx",),
    ),
    LoraFamily(
        name="hidream",
        title="HiDream",
        marks=(r"^double_stream_blocks_\d+_block_",),
        fits=lambda clues: True,
        versions=("hidream", "hi-dream"),
    ),
    LoraFamily(
        name="cascade",
        title="Stable Cascade",
        marks=(r"^lora_prior_(?:unet|te)_",),
        fits=lambda clues: True,
        versions=("stable-cascade",),
    ),
)
"""Every family that is recognised; a new one is one entry.

Source:
    Names of modules in diffusers' ``models/transformers`` and in each model's original code (as in
    diffusers' ``lora_conversion_utils``); sizes from the models' configs.
"""


def find_family(layers: Mapping[str, Size], metadata: Mapping[str, str]) -> FoundFamily:
    """The family of a file.

    Names and sizes of its layers count before its header, which chooses among those that they
    leave possible.

    Args:
        layers: Layers by the file's own names -> outputs and inputs.
        metadata: The header's strings.
    """
    clues = Clues(layers)
    verdicts = [(family, family.verdict(clues)) for family in LORA_FAMILIES]
    sure = [family for family, verdict in verdicts if verdict is True]
    possible = sure or [family for family, verdict in verdicts if verdict is None]
    named = [family for family in possible if family in named_families(metadata)]
    if len(possible) > 1 and named:
        return FoundFamily(tuple(named), by_header=True)
    return FoundFamily(tuple(possible))


def named_families(metadata: Mapping[str, str]) -> list[LoraFamily]:
    """Families that a header names."""
    keys = ("ss_base_model_version", "modelspec.architecture")
    told = [metadata[key].lower() for key in keys if metadata.get(key)]
    return [
        family
        for family in LORA_FAMILIES
        if any(version.startswith(family.versions) for version in told)
    ]
