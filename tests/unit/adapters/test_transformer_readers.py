"""What diffusers makes of every spelling of a transformer's LoRA, tried; ComfyUI by its rule."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2KleinPipeline, ZImagePipeline
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor

from sdlora.adapters.adapter_layers import FileLayer, file_layers
from sdlora.adapters.inspection import inspect_lora
from sdlora.adapters.transformer_names import diffusers_layers
from sdlora.adapters.transformer_readers import RULES, spelling_of

PIPELINES: dict[str, Any] = {"z_image": ZImagePipeline, "flux2_klein": Flux2KleinPipeline}

NAMES = {
    "z_image": (
        "layers.0.attention.to_q",
        "layers.0.attention.to_out.0",
        "layers.0.feed_forward.w1",
        "layers.0.attention.qkv",
        "layers.0.attention.out",
    ),
    "flux2_klein": (
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.attn.to_out.0",
        "single_transformer_blocks.1.attn.to_out",
        "double_blocks.0.img_attn.qkv",
        "double_blocks.0.img_attn.proj",
        "single_blocks.1.linear2",
    ),
}
WAYS = (
    *("", "base_model.model.", "diffusion_model.", "transformer."),
    *("lora_unet_", "lora_transformer_", "lycoris_"),
)
R, ALPHA = 2, 1.0


@pytest.fixture(scope="module")
def pipelines(random_z_image: Path, random_klein: Path) -> dict[str, Any]:
    paths = {"z_image": random_z_image, "flux2_klein": random_klein}
    return {name: PIPELINES[name].from_pretrained(path) for name, path in paths.items()}


def written(sizes: list[tuple[int, int]], way: str, name: str, down: bool, alpha: bool) -> Any:
    """The tensors of one layer in a spelling, of these outputs and inputs (three: a fused one)."""
    stem = way + (name.replace(".", "_") if way.endswith("_") else name)
    first, second = ("lora_down", "lora_up") if down else ("lora_A", "lora_B")
    tensors = {
        f"{stem}.{first}.weight": torch.randn(R, sizes[0][1]),
        f"{stem}.{second}.weight": torch.randn(sum(out for out, _ in sizes), R),
    }
    return tensors | ({f"{stem}.alpha": torch.tensor(ALPHA)} if alpha else {})


def layer_of(tensors: dict[str, Tensor]) -> tuple[str, FileLayer]:
    [found] = file_layers({key: tuple(t.shape) for key, t in tensors.items()}, {}).layers.items()
    return found


def is_used(pipeline: Any, family: str, name: str, tensors: dict[str, Tensor]) -> bool:
    """Whether diffusers' pipeline has the layer's whole update after loading it."""
    a, b, *rest = tensors.values()
    updates = []
    try:
        pipeline.load_lora_weights(dict(tensors), adapter_name="a")
        updates = [
            module.get_delta_weight("a")
            for target in diffusers_layers(name, family)
            if isinstance(module := pipeline.transformer.get_submodule(target), LoraLayer)
        ]
    except (ValueError, IndexError):  # as its converters say that they know a key not
        return False
    finally:
        pipeline.unload_lora_weights()
    if updates:
        expected = b @ a * (ALPHA / R if rest else 1)
        torch.testing.assert_close(torch.cat(updates), expected, rtol=1e-4, atol=1e-4)
    return bool(updates)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", PIPELINES)
def test_diffusers_does_with_a_file_what_is_said(
    family: str, way: str, pipelines: dict[str, Any]
) -> None:
    pipeline = pipelines[family]
    wrong = []
    for name, down, alpha in itertools.product(NAMES[family], (False, True), (False, True)):
        layers = map(pipeline.transformer.get_submodule, diffusers_layers(name, family))
        sizes = [(layer.out_features, layer.in_features) for layer in layers]
        tensors = written(sizes, way, name, down, alpha)
        found = is_used(pipeline, family, name, tensors)
        spelling = spelling_of(*layer_of(tensors), family)
        assert spelling is not None
        said = RULES[family]["diffusers"](spelling)
        if said != found:
            wrong.append((*tensors, said, found))
    assert wrong == []


WHOLE, NOTHING = "reads it whole", "reads nothing of it"

UNFUSED = "single_transformer_blocks.1.attn.to_qkv_mlp_proj"
"""A layer that FLUX.2 alone has, by its name in diffusers."""

FILES = [
    ("z_image", "diffusion_model.", "layers.0.attention.to_q", "AB", True, (WHOLE, WHOLE)),
    ("z_image", "lora_unet_", "layers.0.attention.to_q", "down", True, (WHOLE, NOTHING)),
    ("z_image", "lora_unet_", "layers.0.attention.qkv", "down", True, (WHOLE, WHOLE)),
    ("z_image", "diffusion_model.", "layers.0.attention.qkv", "AB", False, (NOTHING, WHOLE)),
    ("z_image", "transformer.", "layers.0.attention.to_q", "AB", False, (WHOLE, WHOLE)),
    ("z_image", "lycoris_", "layers.0.attention.to_q", "down", True, (NOTHING, WHOLE)),
    ("flux2_klein", "transformer.", UNFUSED, "AB", False, (WHOLE, WHOLE)),
    ("flux2_klein", "transformer.", UNFUSED, "AB", True, (NOTHING, WHOLE)),
    ("flux2_klein", "diffusion_model.", UNFUSED, "AB", False, (WHOLE, NOTHING)),
    ("flux2_klein", "diffusion_model.", NAMES["flux2_klein"][3], "AB", False, (WHOLE, WHOLE)),
    ("flux2_klein", "diffusion_model.", NAMES["flux2_klein"][3], "AB", True, (NOTHING, WHOLE)),
    ("flux2_klein", "diffusion_model.", NAMES["flux2_klein"][3], "down", True, (NOTHING, WHOLE)),
    ("flux2_klein", "lora_unet_", NAMES["flux2_klein"][3], "down", True, (WHOLE, WHOLE)),
    ("flux2_klein", "lora_transformer_", UNFUSED, "down", True, (NOTHING, WHOLE)),
    ("flux2_klein", "lycoris_", UNFUSED, "down", True, (NOTHING, WHOLE)),
    ("z_image", "", "layers.0.attention.to_q", "AB", True, (WHOLE, WHOLE)),
]
"""Spellings that are in use -> what diffusers and ComfyUI make of them, by its key maps."""

SIDES = {"z_image": 3840, "flux2_klein": 3072}
"""Inputs of those layers, by which families are told apart."""


@pytest.mark.parametrize(("family", "way", "name", "ends", "alpha", "expected"), FILES)
def test_inspect_says_which_program_reads_a_spelling(
    family: str,
    way: str,
    name: str,
    ends: str,
    alpha: bool,
    expected: tuple[str, str],
    tmp_path: Path,
) -> None:
    side = SIDES[family]
    sizes = [(side, side)] * len(diffusers_layers(name, family))
    tensors = written(sizes, way, name, ends == "down", alpha)
    version = {"z_image": "zimage", "flux2_klein": "flux2_klein_4b"}[family]
    save_file(tensors, tmp_path / "a.safetensors", {"ss_base_model_version": version})
    found = inspect_lora(tmp_path / "a.safetensors").readers
    assert tuple(found) == ("diffusers", "ComfyUI")
    for text, start in zip(found.values(), expected, strict=True):
        assert text.startswith(start)


def test_a_layer_of_many_that_is_not_read_is_counted(tmp_path: Path) -> None:
    tensors = written([(3840, 3840)], "lora_unet_", "layers.0.attention.to_q", True, True)
    tensors |= written([(10240, 3840)], "lora_unet_", "layers.0.feed_forward.w1", True, True)
    save_file(tensors, tmp_path / "a.safetensors", {"ss_base_model_version": "zimage"})
    found = inspect_lora(tmp_path / "a.safetensors").readers
    assert found["ComfyUI"].startswith("leaves out 1 of 2 layers (LoRA lora_unet_layers_0_att")
