"""The numbers of the real models, on torch's meta device: shapes without weights."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from transformers import CLIPTextConfig, CLIPTextModel

from sdlora.adapters.lora import adapted_layers, add_lora, lora_parameters
from sdlora.adapters.spec import LoraSpec
from tests.architectures import SD15_UNET, SDXL_UNET
from tests.composed import train_config


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


KOLORS_UNET: dict[str, Any] = {  # unet/config.json of Kolors: SDXL's, told otherwise of prompts
    **SDXL_UNET,
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "projection_class_embeddings_input_dim": 5632,
}
SDXL_PARAMETERS = 2_567_463_684
# by hand: the pooled text is 5632 - 2816 wider, and is projected to 1280; so are the states, from
# 4096 to 2048, with a bias
KOLORS_PARAMETERS = SDXL_PARAMETERS + (5632 - 2816) * 1280 + (4096 + 1) * 2048


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(SDXL_UNET, SDXL_PARAMETERS), (KOLORS_UNET, KOLORS_PARAMETERS)],
    ids=["sdxl", "kolors"],
)
def test_lora_on_the_attention_of_sdxl_and_kolors(config: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    assert sum(p.numel() for p in unet.parameters()) == parameters
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


def unconditional_by_hand(widths: list[int], attended: int, layers: int = 2) -> int:
    """Weights of a UNet of residual blocks, with attention in one level and in the middle."""
    time = 4 * widths[0]

    def conv(into: int, out: int, size: int = 9) -> int:
        return size * into * out + out

    def block(into: int, out: int) -> int:
        shortcut = conv(into, out, 1) if into != out else 0
        norms = 2 * into + 2 * out
        return norms + conv(into, out) + conv(time, out, 1) + conv(out, out) + shortcut

    def attention(width: int) -> int:
        return 2 * width + 4 * conv(width, width, 1)  # norm, q, k, v, out

    first, last = widths[0], widths[-1]
    total = conv(3, first) + conv(first, time, 1) + conv(time, time, 1)
    total += 2 * first + conv(first, 3) + 2 * block(last, last) + attention(last)
    skips, width = [first], first
    for level, out in enumerate(widths):
        for _ in range(layers):
            total += block(width, out) + (attention(out) if level == attended else 0)
            width = out
            skips.append(out)
        if level < len(widths) - 1:
            total += conv(out, out)
            skips.append(out)
    for level, out in reversed(list(enumerate(widths))):
        for _ in range(layers + 1):
            total += block(width + skips.pop(), out)
            total += attention(out) if level == attended else 0
            width = out
        total += conv(out, out) if level else 0
    return total


@pytest.mark.parametrize(
    ("experiment", "attended", "expected"),
    [("butterflies_ddpm", 4, 113_673_219), ("flowers_ddpm", 3, 61_832_835)],
)
def test_parameters_of_the_unconditional_experiments(
    experiment: str, attended: int, expected: int
) -> None:
    given = [f"experiment={experiment}", "data.root=here"]
    config = train_config(*given)
    options = config.model.architecture
    assert (options["sample_size"], config.data.resolution, config.data.batch_size) == (
        128,
        128,
        16,
    )
    with torch.device("meta"):
        unet = UNet2DModel(**options)
    by_hand = unconditional_by_hand(options["block_out_channels"], attended)
    assert sum(p.numel() for p in unet.parameters()) == by_hand == expected


def test_parameters_of_the_language_model_of_kolors() -> None:
    """ChatGLM3-6B, text_encoder/config.json of Kolors; a number that its authors publish."""
    config = ChatGLMConfig(
        add_qkv_bias=True,
        ffn_hidden_size=13696,
        hidden_size=4096,
        kv_channels=128,
        multi_query_attention=True,
        multi_query_group_num=2,
        num_attention_heads=32,
        num_layers=28,
        original_rope=True,
        padded_vocab_size=65024,
        seq_length=32768,
    )
    model = ChatGLMModel(config, device="meta")
    assert sum(p.numel() for p in model.parameters()) == 6_243_584_000


SD21_UNET: dict[str, Any] = {  # unet/config.json of Stable Diffusion 2.1: as 1.5, other attention
    **SD15_UNET,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}


def test_lora_on_the_attention_of_sd21() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD21_UNET)
    assert sum(p.numel() for p in unet.parameters()) == 865_910_724
    unet.requires_grad_(False)
    spec = LoraSpec(r=8, alpha=8.0, dropout=0.0, targets=("to_q", "to_k", "to_v", "to_out.0"))
    add_lora(unet, spec, seed=0)
    trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    assert len({name.partition(".lora_")[0] for name in trained}) == 16 * 2 * 4
    # as for 1.5 above, with the output layers of both attentions, and text of width 1024
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    by_hand = 8 * sum(6 * 2 * c + 2 * (1024 + c) for c in widths)
    assert sum(p.numel() for p in trained.values()) == by_hand


def test_lora_on_the_text_encoder_of_sd21() -> None:
    """OpenCLIP ViT-H without its last layer, text_encoder/config.json of Stable Diffusion 2.1."""
    config = CLIPTextConfig(
        hidden_act="gelu",
        hidden_size=1024,
        intermediate_size=4096,
        num_attention_heads=16,
        num_hidden_layers=23,
        projection_dim=512,
    )
    with torch.device("meta"):
        encoder = CLIPTextModel(config)
    # by hand: tokens and places; in a layer four projections, the feed-forward, two norms; a norm
    layer = 4 * 1025 * 1024 + 1025 * 4096 + 4097 * 1024 + 2 * 2048
    by_hand = (49408 + 77) * 1024 + 23 * layer + 2048
    assert sum(p.numel() for p in encoder.parameters()) == by_hand == 340_387_840
    encoder.requires_grad_(False)
    targets = ("q_proj", "k_proj", "v_proj", "out_proj")
    add_lora(encoder, LoraSpec(r=8, alpha=8.0, dropout=0.0, targets=targets), seed=0)
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert len({name.partition(".lora_")[0] for name in trained}) == 23 * 4
    assert sum(p.numel() for p in trained.values()) == 23 * 4 * 8 * 2 * 1024
