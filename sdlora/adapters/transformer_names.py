"""Names of the layers of transformer families: diffusers' own from every spelling of files."""

import re

_PREFIX = r"(?:base_model\.model\.|model\.)*"
_PREFIX += r"(?:diffusion_model\.|transformer\.|lora_unet_|lora_transformer_|lycoris_)?"

_Z_IMAGE_BLOCK = r"(layers|noise_refiner|context_refiner)\.(\d+)"

NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "z_image": {
        rf"{_Z_IMAGE_BLOCK}\.attention\.(to_[qkv])": (r"\1.\2.attention.\3",),
        rf"{_Z_IMAGE_BLOCK}\.attention\.qkv": tuple(rf"\1.\2.attention.to_{x}" for x in "qkv"),
        rf"{_Z_IMAGE_BLOCK}\.attention\.(?:out|to_out|to_out\.0)": (r"\1.\2.attention.to_out.0",),
        rf"{_Z_IMAGE_BLOCK}\.feed_forward\.(w[123])": (r"\1.\2.feed_forward.\3",),
        rf"{_Z_IMAGE_BLOCK}\.adaLN_modulation\.(\d)": (r"\1.\2.adaLN_modulation.\3",),
        r"cap_embedder\.(\d)": (r"cap_embedder.\1",),
        r"t_embedder\.mlp\.(\d)": (r"t_embedder.mlp.\1",),
    },
    "flux2_klein": {
        r"double_blocks\.(\d+)\.img_attn\.qkv": tuple(
            rf"transformer_blocks.\1.attn.to_{x}" for x in "qkv"
        ),
        r"double_blocks\.(\d+)\.txt_attn\.qkv": tuple(
            rf"transformer_blocks.\1.attn.add_{x}_proj" for x in "qkv"
        ),
        r"double_blocks\.(\d+)\.img_attn\.proj": (r"transformer_blocks.\1.attn.to_out.0",),
        r"double_blocks\.(\d+)\.txt_attn\.proj": (r"transformer_blocks.\1.attn.to_add_out",),
        r"double_blocks\.(\d+)\.img_mlp\.0": (r"transformer_blocks.\1.ff.linear_in",),
        r"double_blocks\.(\d+)\.img_mlp\.2": (r"transformer_blocks.\1.ff.linear_out",),
        r"double_blocks\.(\d+)\.txt_mlp\.0": (r"transformer_blocks.\1.ff_context.linear_in",),
        r"double_blocks\.(\d+)\.txt_mlp\.2": (r"transformer_blocks.\1.ff_context.linear_out",),
        r"single_blocks\.(\d+)\.linear1": (r"single_transformer_blocks.\1.attn.to_qkv_mlp_proj",),
        r"single_blocks\.(\d+)\.linear2": (r"single_transformer_blocks.\1.attn.to_out",),
        r"transformer_blocks\.(\d+)\.attn\.(to_[qkv]|add_[qkv]_proj|to_add_out)": (
            r"transformer_blocks.\1.attn.\2",
        ),
        r"transformer_blocks\.(\d+)\.attn\.to_out(?:\.0)?": (
            r"transformer_blocks.\1.attn.to_out.0",
        ),
        r"transformer_blocks\.(\d+)\.(ff|ff_context)\.linear_(in|out)": (
            r"transformer_blocks.\1.\2.linear_\3",
        ),
        r"single_transformer_blocks\.(\d+)\.attn\.(to_qkv_mlp_proj|to_out)": (
            r"single_transformer_blocks.\1.attn.\2",
        ),
        r"img_in": ("x_embedder",),
        r"txt_in": ("context_embedder",),
        r"final_layer\.linear": ("proj_out",),
        r"(single_stream_modulation|double_stream_modulation_(?:img|txt))\.lin(?:ear)?": (
            r"\1.linear",
        ),
    },
}
"""Family -> pattern of a name -> the layers in diffusers, three for a fused one. A dot of a pattern
is a dot or ``_`` in a file.

Source:
    Names of modules in both models' original code, as diffusers' ``lora_conversion_utils`` reads
    them.
"""

_COMPILED = {
    family: [
        (re.compile(_PREFIX + pattern.replace(r"\.", "[._]") + r"\Z"), names)
        for pattern, names in patterns.items()
    ]
    for family, patterns in NAMES.items()
}


def diffusers_layers(name: str, family: str) -> tuple[str, ...]:
    """The layers of a name of a file: one, three of a fused projection, or none that is known."""
    for pattern, names in _COMPILED.get(family, ()):
        if found := pattern.match(name):
            return tuple(found.expand(each) for each in names)
    return ()
