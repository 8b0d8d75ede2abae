"""Our kohya layout of SD1.5 and SDXL in full size, against the names of kohya's own trainer.

The lists are written from its rule (kohya-ss/sd-scripts, networks/lora.py): prefix, then the path
of each Linear or 1x1 convolution inside a ``Transformer2DModel``, and of each Linear inside a CLIP
layer's attention and MLP, with ``_`` for ``.``. It trains SD1.5 in diffusers' names, and SDXL in
those of the original code.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdlora.adapters.file_keys import to_kohya
from sdlora.adapters.lora import adapted_layers, add_lora, lora_parameters
from sdlora.adapters.spec import LoraSpec
from sdlora.models.description import FamilyDescription
from sdlora.models.sd import SD
from sdlora.models.sdxl import SDXL
from tests.architectures import SD15_UNET, SDXL_UNET

UNET = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out"),
    *("ff.net.0.proj", "ff.net.2"),
)
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def transformer(place: str, depth: int) -> Iterator[str]:
    """The layers of one ``Transformer2DModel``."""
    yield f"lora_unet_{place}_proj_in"
    for block in range(depth):
        stem = f"lora_unet_{place}_transformer_blocks_{block}"
        for attention in ("attn1", "attn2"):
            for layer in ("to_q", "to_k", "to_v", "to_out_0"):
                yield f"{stem}_{attention}_{layer}"
        yield f"{stem}_ff_net_0_proj"
        yield f"{stem}_ff_net_2"
    yield f"lora_unet_{place}_proj_out"


def clip(prefix: str, num_layers: int) -> Iterator[str]:
    """The layers of a CLIP text encoder."""
    for number in range(num_layers):
        stem = f"{prefix}_text_model_encoder_layers_{number}"
        for layer in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{stem}_self_attn_{layer}"
        yield f"{stem}_mlp_fc1"
        yield f"{stem}_mlp_fc2"


def sd15_names() -> tuple[list[str], list[str]]:
    """Attention in the first three blocks down, the middle, the last three up."""
    places = [f"down_blocks_{i}_attentions_{j}" for i in (0, 1, 2) for j in (0, 1)]
    places += ["mid_block_attentions_0"]
    places += [f"up_blocks_{i}_attentions_{j}" for i in (1, 2, 3) for j in (0, 1, 2)]
    unet = [name for place in places for name in transformer(place, 1)]
    return unet, list(clip("lora_te", 12))


def sdxl_names() -> tuple[list[str], list[str]]:
    """Depth 2 at 640 channels, 10 at 1280; 12 and 32 layers of text."""
    depths = {"input_blocks_4_1": 2, "input_blocks_5_1": 2}
    depths |= {"input_blocks_7_1": 10, "input_blocks_8_1": 10, "middle_block_1": 10}
    depths |= {f"output_blocks_{i}_1": 10 for i in (0, 1, 2)}
    depths |= {f"output_blocks_{i}_1": 2 for i in (3, 4, 5)}
    unet = [name for place, depth in depths.items() for name in transformer(place, depth)]
    return unet, [*clip("lora_te1", 12), *clip("lora_te2", 32)]


def text_config(width: int, num_layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=width // 64,
        projection_dim=width,
    )


def adapted_model(unet: dict[str, Any], is_sdxl: bool) -> dict[str, nn.Module]:
    """The real architecture without weights, with a LoRA on kohya's targets."""
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet),
            "text_encoder": CLIPTextModel(text_config(768, 12)),
        }
        if is_sdxl:
            parts["text_encoder_2"] = CLIPTextModelWithProjection(text_config(1280, 32))
        for part, module in parts.items():
            targets = UNET if part == "unet" else TEXT
            add_lora(module, LoraSpec(r=4, alpha=2.0, dropout=0.0, targets=targets), seed=0)
    return parts


@pytest.mark.parametrize(
    ("unet", "family", "names", "counts"),
    [
        (SD15_UNET, SD, sd15_names(), (192, 72)),
        (SDXL_UNET, SDXL, sdxl_names(), (722, 264)),
    ],
    ids=["sd15", "sdxl"],
)
def test_names_of_kohyas_trainer(
    unet: dict[str, Any],
    family: FamilyDescription,
    names: tuple[list[str], list[str]],
    counts: tuple[int, int],
) -> None:
    # the counts that the trainer prints: "create LoRA for U-Net: 192 modules.", and so on
    assert (len(names[0]), len(names[1])) == counts
    parts = adapted_model(unet, family is SDXL)
    states = {part: dict(lora_parameters(module)) for part, module in parts.items()}
    alphas = {
        part: {layer: alpha for layer, (_, alpha) in adapted_layers(module).items()}
        for part, module in parts.items()
    }
    found = to_kohya(states, alphas, family.trainable)
    roles = ("lora_down.weight", "lora_up.weight", "alpha")
    assert set(found) == {f"{name}.{role}" for name in [*names[0], *names[1]] for role in roles}
