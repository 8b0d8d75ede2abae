"""What names and sizes of layers say of each family: it is this one, it is not, or nothing."""

from collections.abc import Callable

from sdlora.adapters.family_clues import Clues

_DEEP = r"_transformer_blocks_[1-9]"
SIZED = r"(?:add_embedding_linear_1|label_emb_0_0)$"
_CROSS = r"attn2_to_[kv]$"
_CROSS_WIDTHS = {768, 1024, 2048}
_TEXT = r"^(?:lora_te_|text_encoder_|.*clip_[lh]_).*self_attn_q_proj$"
DIFFUSERS_OF_Z_IMAGE = r"_attention_to_(?:[qkv]|out_0)$"
"""Names that Lumina Image 2, whose others it shares, does not have."""


def stable_diffusion(own_cross: int, own_text: int) -> Callable[[Clues], bool | None]:
    """Stable Diffusion 1 or 2: inputs of its cross attention, and of its text encoder."""

    def fits(clues: Clues) -> bool | None:
        if clues.has(_DEEP) or clues.has(SIZED):
            return False
        cross, texts = clues.inputs(_CROSS) & _CROSS_WIDTHS, clues.inputs(_TEXT) & {768, 1024}
        if not cross and texts == {768} == {own_text} and clues.has(r"^text_encoder_"):
            return None  # SDXL's first text encoder has these names and this size, too
        found = cross | texts
        return found <= {own_cross, own_text} if found else None

    return fits


def xl(clues: Clues) -> bool | None:
    """SDXL by its second text encoder, its added embedding, or widths of its attention."""
    if clues.has(r"encoder_hid_proj") or clues.inputs(SIZED) & {5632}:
        return False
    is_two = "text_encoder_2" in clues.parts or clues.has(r"^lora_te1_")  # so its first is called
    if is_two or 2816 in clues.inputs(SIZED):
        return True
    if clues.parts == {"text_encoder"}:
        return False if clues.inputs(_TEXT) & {1024} else None
    return _of_xl_layout(clues)


def kolors(clues: Clues) -> bool | None:
    """Kolors by its projection of the text encoder, or the layout that it shares with SDXL."""
    if "text_encoder" in clues.parts or "text_encoder_2" in clues.parts:
        return False
    if clues.has(r"encoder_hid_proj") or 5632 in clues.inputs(SIZED):
        return True
    if 2816 in clues.inputs(SIZED):
        return False
    return _of_xl_layout(clues)


def _of_xl_layout(clues: Clues) -> bool | None:
    """``False`` where the U-Net is none of SDXL's layout, which Kolors shares."""
    found = clues.inputs(_CROSS) & _CROSS_WIDTHS
    if found and found != {2048}:
        return False
    if clues.has(
        r"^down_blocks_3_|^up_blocks_3_|^input_blocks_(?:9|1\d)_|^output_blocks_(?:9|1\d)_"
    ):
        return False
    if 320 in clues.inputs(r"attn1_to_q"):  # SDXL has no attention at this width
        return False
    return None


def flux_1(clues: Clues) -> bool | None:
    """FLUX.1 by modulations that FLUX.2 does not have, and the width of its MLPs."""
    ratios = clues.ratios(r"_(?:img|txt)_mlp_0$|ff(?:_context)?_net_0_proj$")
    singles = clues.ratios(r"single_blocks_\d+_linear1$")
    if ratios & {6.0} or singles & {9.0}:
        return False
    if clues.has(r"_(?:img|txt)_mod_lin$|single_blocks_\d+_modulation_lin$|norm1_context_linear$"):
        return True
    return None


def flux_2(clues: Clues) -> bool | None:
    """FLUX.2 by fused layers that FLUX.1 does not have, and the width of its MLPs and attention."""
    if clues.has(r"to_qkv_mlp_proj$|(?:double|single)_stream_modulation|ff_context_linear_in$"):
        return True
    if clues.ratios(r"_(?:img|txt)_mlp_0$") & {6.0} or clues.ratios(
        r"single_blocks_\d+_linear1$"
    ) & {9.0}:
        return True
    widths = clues.inputs(r"_attn_qkv$|_attn_to_q$|_attn_add_q_proj$")
    if widths & {4096, 6144}:
        return True
    if widths and not widths & {3072}:
        return False
    return False if clues.ratios(r"_mlp_0$|single_blocks_\d+_linear1$") else None


def width(*widths: int, of: str) -> Callable[[Clues], bool | None]:
    """Whether the layers of a name have one of these numbers of inputs."""

    def fits(clues: Clues) -> bool | None:
        found = clues.inputs(of)
        return None if not found else bool(found & set(widths))

    return fits


def z_image(clues: Clues) -> bool | None:
    """Z-Image by diffusers' names, or the width that Lumina Image 2 does not have."""
    if clues.has(DIFFUSERS_OF_Z_IMAGE):
        return True
    return width(3840, of=r"_attention_(?:qkv|out)$|_feed_forward_w[13]$")(clues)


def qwen_image(clues: Clues) -> bool | None:
    """Qwen-Image by its width, and names of its MLPs."""
    found = width(3072, of=r"_attn_(?:to_q|add_q_proj)$|_(?:img|txt)_mlp_net_0_proj$")(clues)
    # its attention has names and sizes of others
    return found if clues.has(r"_(?:img|txt)_(?:mlp|mod)_") or found is False else None
