"""The numbers of the real UNets, on torch's meta device: shapes without weights."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from sdlora.adapters.lora import adapted_layers, add_lora, lora_parameters
from sdlora.adapters.spec import LoraSpec

SD15_UNET: dict[str, Any] = {  # unet/config.json of Stable Diffusion 1.5
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}


@pytest.fixture
def unet() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**SD15_UNET)


def test_parameters_of_the_unet(unet: UNet2DConditionModel) -> None:
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964


@pytest.mark.parametrize("r", [4, 16])
def test_lora_on_q_k_v(unet: UNet2DConditionModel, r: int) -> None:
    unet.requires_grad_(False)
    spec = LoraSpec(r=r, alpha=16.0, dropout=0.0, targets=("to_q", "to_k", "to_v"))
    add_lora(unet, spec, seed=0)
    trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    layers = {name.partition(".lora_")[0] for name in trained}
    # by hand: 16 transformer blocks (2 a down block of 3, 1 in the middle, 3 an up block of 3),
    # each with self- and cross-attention, each with q, k, v
    assert len(layers) == 16 * 2 * 3 == 96
    # by hand, for a block of width c: r (in + out) for q, k, v of self-attention and q of
    # cross-attention: 4 * 2c, and for its k, v: 2 (768 + c); widths 320, 640 five times, 1280 six
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    by_hand = r * sum(4 * 2 * c + 2 * (768 + c) for c in widths)
    assert sum(p.numel() for p in trained.values()) == by_hand
    if r == 16:
        assert by_hand == 2_390_016


def test_lora_on_the_time_embeddings(unet: UNet2DConditionModel) -> None:
    """By hand: 22 resnets (2 a down block, 2 in the middle, 3 an up block), each 1280 -> width."""
    targets = ("time_emb_proj",)
    spec = LoraSpec(r=8, alpha=8.0, dropout=0.0, targets=targets, rank_pattern={"mid_block": 2})
    add_lora(unet, spec, seed=0)
    widths = [320, 640] * 5 + [1280] * 10  # down and up: 2 + 3 of the narrow, twice as many wide
    by_hand = 8 * sum(1280 + width for width in widths) + 2 * 2 * (1280 + 1280)
    assert len(adapted_layers(unet)) == len(widths) + 2 == 22
    assert sum(p.numel() for p in lora_parameters(unet).values()) == by_hand


SDXL_UNET: dict[str, Any] = {  # unet/config.json of Stable Diffusion XL base 1.0
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": (1, 2, 10),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
}


def test_lora_on_the_attention_of_sdxl() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684
    unet.requires_grad_(False)
    spec = LoraSpec(r=8, alpha=8.0, dropout=0.0, targets=("to_q", "to_k", "to_v", "to_out.0"))
    add_lora(unet, spec, seed=0)
    trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    layers = {name.partition(".lora_")[0] for name in trained}
    # by hand: attentions x transformer blocks: 2 x 2 and 2 x 10 down, 10 in the middle, 3 x 10 and
    # 3 x 2 up; each block has self- and cross-attention of four layers
    narrow, wide = 2 * 2 + 3 * 2, 2 * 10 + 10 + 3 * 10
    assert len(layers) == (narrow + wide) * 2 * 4 == 560
    # r (in + out): eight layers a block, of which k and v of cross-attention read 2048 wide text
    by_hand = 8 * sum(
        count * (6 * 2 * c + 2 * (2048 + c)) for count, c in ((narrow, 640), (wide, 1280))
    )
    assert sum(p.numel() for p in trained.values()) == by_hand
