"""Names of a UNet's weights in the original Stable Diffusion code, which numbers all blocks."""

import re
from collections.abc import Sequence

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ONLY_SGM = {name: UNET_ENDS[name] for name in ("add_embedding.linear_1", "add_embedding.linear_2")}
"""Layers of SDXL's UNet for which diffusers reads only the original code's names from kohya files;
ComfyUI and A1111 read those as well."""

MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
SDXL_UP_ATTENTION = (True, True, False)
"""Whether each up block of SDXL has attention."""


def unet_name(key: str, layers_per_block: int, up_attention: Sequence[bool]) -> str:
    """A UNet weight's name in the original code.

    Args:
        key: Its name in diffusers.
        layers_per_block: Resnets in a down block; up blocks have one more.
        up_attention: Whether each up block has attention.

    Raises:
        ValueError: If the original code has no such weight.
    """
    for ours, theirs in UNET_ENDS.items():
        if key.startswith(f"{ours}."):
            return theirs + key.removeprefix(ours)
    if match := re.fullmatch(r"mid_block\.(resnets\.[01]|attentions\.0)\.(.+)", key):
        return f"middle_block.{MIDDLE[match[1]]}.{_resnet(match[2])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", key)
    if match is None:
        raise ValueError(f"{key}: the original Stable Diffusion has no such weight")
    side, block, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if side == "down":
        first = 1 + block * (layers_per_block + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers_per_block}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{first + index}.{int(kind == 'attentions')}.{_resnet(rest)}"
    first = block * (layers_per_block + 1)
    if kind == "upsamplers":
        return f"output_blocks.{first + layers_per_block}.{1 + up_attention[block]}.{rest}"
    return f"output_blocks.{first + index}.{int(kind == 'attentions')}.{_resnet(rest)}"


def diffusers_name(layer: str, layers_per_block: int) -> str | None:
    """The inverse of :func:`unet_name` for a layer: its name in diffusers.

    Args:
        layer: Its name in the original code, without ``.weight``.
        layers_per_block: Resnets in a down block; up blocks have one more.

    Returns:
        The name; ``None`` if the original code has no such layer.
    """
    for ours, theirs in UNET_ENDS.items():
        if layer == theirs:
            return ours
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", layer):
        place = next(ours for ours, theirs in MIDDLE.items() if theirs == match[1])
        return f"mid_block.{place}.{_inside(place, match[2])}"
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.([012])\.(.+)", layer)
    if match is None:
        return None
    number, entry, rest = int(match[2]), int(match[3]), match[4]
    per_block = layers_per_block + 1
    if match[1] == "output":
        block, index = divmod(number, per_block)
        if rest == "conv" and index == layers_per_block and entry > 0:
            return f"up_blocks.{block}.upsamplers.0.conv"
        side = "up"
    else:
        block, index = divmod(number - 1, per_block)
        if index == layers_per_block:
            return f"down_blocks.{block}.downsamplers.0.conv" if rest == "op" else None
        side = "down"
    if number == 0 and side == "down" or entry > 1:
        return None
    kind = ("resnets", "attentions")[entry]
    return f"{side}_blocks.{block}.{kind}.{index}.{_inside(kind, rest)}"


def _inside(kind: str, rest: str) -> str:
    """A name inside a block, in diffusers."""
    if kind.startswith("attentions"):
        return rest
    for ours, theirs in RESNET.items():
        if rest == theirs:
            return ours
    return rest


def kohya_layer(layer: str) -> str:
    """A UNet layer's name in kohya files with diffusers' names."""
    return ONLY_SGM.get(layer, layer)


def sdxl_layer(layer: str) -> str:
    """A layer's name in SDXL's UNet, which has two resnets in a block."""
    return unet_name(f"{layer}.weight", 2, SDXL_UP_ATTENTION).removesuffix(".weight")


def _resnet(rest: str) -> str:
    """A name inside a block: resnets are renamed, transformers are not."""
    first, dot, last = rest.partition(".")
    return RESNET.get(first, first) + dot + last
