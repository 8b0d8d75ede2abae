"""The table of model families of LoRA files: real layer names and sizes of each family."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdlora.adapters.formats import read_lora
from sdlora.adapters.inspection import inspect_lora
from sdlora.adapters.lora_families import LORA_FAMILIES, find_family
from sdlora.adapters.spec import LoraError
from sdlora.models.families import FAMILIES

CROSS = "transformer_blocks_0_attn2_to_k"
DOWN = f"lora_unet_down_blocks_1_attentions_0_{CROSS}"
TEXT = "text_model_encoder_layers_0_self_attn_q_proj"
DOUBLE, SINGLE = "lora_unet_double_blocks_0_", "lora_unet_single_blocks_0_"
OF_FOUR = "Stable Diffusion 1 or Stable Diffusion 2 or Stable Diffusion XL or Kolors"
SDXL_OR_KOLORS = "Stable Diffusion XL or Kolors"

# layer -> (outputs, inputs), from the models' configs
CASES = [
    ({DOWN: (640, 768)}, "Stable Diffusion 1"),
    ({f"lora_te_{TEXT}": (768, 768)}, "Stable Diffusion 1"),
    ({"lora_unet_input_blocks_4_1_" + CROSS: (640, 768)}, "Stable Diffusion 1"),
    ({DOWN: (640, 1024)}, "Stable Diffusion 2"),
    ({f"lora_te_{TEXT}": (1024, 1024)}, "Stable Diffusion 2"),
    ({"unet.mid_block.attentions.0.proj_in": (16, 16)}, OF_FOUR),
    ({DOWN: (640, 2048)}, SDXL_OR_KOLORS),
    ({DOWN: (640, 2048), f"lora_te1_{TEXT}": (768, 768)}, "Stable Diffusion XL"),
    ({f"lora_te2_{TEXT}": (1280, 1280)}, "Stable Diffusion XL"),
    ({"text_encoder_2.text_model.encoder.layers.0.mlp.fc1": (1, 1)}, "Stable Diffusion XL"),
    ({DOWN: (640, 2048), "lora_unet_label_emb_0_0": (1280, 2816)}, "Stable Diffusion XL"),
    ({DOWN: (640, 2048), "lora_unet_add_embedding_linear_1": (1280, 5632)}, "Kolors"),
    ({DOUBLE + "img_attn_qkv": (9216, 3072)}, "FLUX.1 or FLUX.2"),
    ({DOUBLE + "img_mlp_0": (12288, 3072)}, "FLUX.1"),
    ({DOUBLE + "img_mod_lin": (18432, 3072)}, "FLUX.1"),
    ({SINGLE + "linear1": (21504, 3072)}, "FLUX.1"),
    ({"transformer.single_transformer_blocks.0.proj_mlp": (12288, 3072)}, "FLUX.1"),
    ({DOUBLE + "img_mlp_0": (18432, 3072)}, "FLUX.2"),
    ({SINGLE + "linear1": (27648, 3072)}, "FLUX.2"),
    ({DOUBLE + "img_attn_qkv": (12288, 4096)}, "FLUX.2"),
    ({"transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj": (27648, 3072)}, "FLUX.2"),
    ({"lora_unet_distilled_guidance_layer_layers_0_in_layer": (5120, 5120)}, "Chroma"),
    ({"diffusion_model.layers.0.attention.to_q": (3840, 3840)}, "Z-Image"),
    ({"lora_unet_layers_0_feed_forward_w1": (10240, 3840)}, "Z-Image"),
    ({"diffusion_model.layers.0.attention.qkv": (3840, 2304)}, "Lumina Image 2"),
    ({"lora_unet_joint_blocks_0_x_block_attn_qkv": (4608, 1536)}, "Stable Diffusion 3"),
    ({"transformer.transformer_blocks.0.attn.add_q_proj": (2432, 2432)}, "Stable Diffusion 3"),
    ({"transformer.transformer_blocks.0.attn.add_q_proj": (3072, 3072)}, "FLUX.2 or Qwen-Image"),
    ({"transformer.transformer_blocks.0.attn.add_q_proj": (4096, 4096)}, "FLUX.2"),
    (
        {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (768, 768)},
        "Stable Diffusion 1 or Stable Diffusion XL",
    ),
    ({"lora_unet_transformer_blocks_0_img_mlp_net_0_proj": (12288, 3072)}, "Qwen-Image"),
    ({"diffusion_model.blocks.0.attn.wq": (6144, 6144)}, "Krea 2"),
    ({"transformer.transformer_blocks.0.attn.to_gate": (6144, 6144)}, "Krea 2"),
    ({"lora_unet_blocks_0_self_attn_q_proj": (2048, 2048)}, "Anima (Cosmos-Predict2)"),
    ({"diffusion_model.blocks.0.self_attn.q": (5120, 5120)}, "Wan"),
    ({"lora_unet_double_blocks_0_img_mlp_fc1": (12288, 3072)}, "HunyuanVideo"),
    ({"transformer.transformer_blocks.0.attn1.to_q": (1152, 1152)}, "PixArt"),
    ({"transformer.transformer_blocks.0.attn1.to_q": (2048, 2048)}, "LTX-Video"),
    ({"diffusion_model.double_stream_blocks.0.block.attn1.to_q": (2560, 2560)}, "HiDream"),
    ({"lora_prior_unet_blocks_0_attn": (1, 1)}, "Stable Cascade"),
    ({"somebody.elses.layer": (1, 1)}, "an unknown family"),
]


@pytest.mark.parametrize(("layers", "title"), CASES)
def test_a_family_is_known_by_its_layers(
    layers: dict[str, tuple[int | None, int | None]], title: str
) -> None:
    found = find_family(layers, {})
    assert found.title == title
    assert found.is_certain == (" or " not in title and title != "an unknown family")


def test_every_family_of_the_table_has_a_case() -> None:
    shown = {title for _, title in CASES}
    assert {each.title for each in LORA_FAMILIES} <= shown


def test_every_family_with_lora_files_of_its_own_is_in_the_table() -> None:
    known = {each.name for each in LORA_FAMILIES}
    assert {name for name in FAMILIES if name in ("sd", "sdxl", "kolors")} <= known


@pytest.mark.parametrize(
    ("metadata", "title", "by_header"),
    [
        ({}, SDXL_OR_KOLORS, False),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "Stable Diffusion XL", True),
        ({"ss_base_model_version": "kolors"}, "Kolors", True),
        (
            {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"},
            "Stable Diffusion XL",
            True,
        ),
        ({"ss_base_model_version": "sd_v1"}, SDXL_OR_KOLORS, False),  # its layers say otherwise
    ],
)
def test_a_header_chooses_among_what_the_layers_leave_open(
    metadata: dict[str, str], title: str, by_header: bool
) -> None:
    found = find_family({DOWN: (640, 2048)}, metadata)
    assert (found.title, found.by_header) == (title, by_header)


def test_a_header_tells_klein_from_qwen_image() -> None:
    layers = {"transformer.transformer_blocks.0.attn.to_q": (3072, 3072)}
    named = {"ss_base_model_version": "flux2_klein"}
    assert (
        find_family(
            layers | {"transformer.transformer_blocks.0.attn.add_q_proj": (3072, 3072)}, named
        ).title
        == "FLUX.2"
    )


@pytest.mark.parametrize(
    ("stem", "size", "title"),
    [
        ("lora_unet_double_blocks_0_img_mod_lin", (64, 32), "FLUX.1"),
        ("diffusion_model.blocks.0.self_attn.q", (32, 32), "Wan"),
        ("transformer.transformer_blocks.0.attn.to_gate", (32, 32), "Krea 2"),
    ],
)
def test_another_family_is_inspected_and_refused_by_name(
    stem: str, size: tuple[int, int], title: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    ends = ("lora_down", "lora_up") if stem.startswith("lora_unet") else ("lora_A", "lora_B")
    shapes = ((2, size[1]), (size[0], 2))
    save_file({f"{stem}.{end}.weight": torch.zeros(shape)
               for end, shape in zip(ends, shapes, strict=True)}, path)  # fmt: skip
    facts = inspect_lora(path)
    assert (facts.family, facts.parts["transformer"].ranks) == (title, {2: 1})
    assert facts.readers == {}  # not judged
    with pytest.raises(LoraError, match=f"a LoRA of {title}, which is not loaded here; use it"):
        read_lora(path)
