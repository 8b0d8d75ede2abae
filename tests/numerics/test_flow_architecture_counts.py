"""The numbers of the real Z-Image and FLUX.2 klein, on torch's meta device: shapes, no weights."""

import pytest
import torch
from diffusers import Flux2Transformer2DModel, ZImageTransformer2DModel
from torch import nn

from sdlora.adapters.lora import add_lora
from sdlora.adapters.spec import LoraSpec
from sdlora.models.families import FAMILIES
from tests.architectures import KLEIN

WIDTH_OF_TEXT = {"4B": 3 * 2560, "9B": 3 * 4096}


def klein(size: str) -> Flux2Transformer2DModel:
    with torch.device("meta"):
        return Flux2Transformer2DModel(
            **KLEIN[size], joint_attention_dim=WIDTH_OF_TEXT[size], guidance_embeds=False
        )


def z_image() -> ZImageTransformer2DModel:
    with torch.device("meta"):
        return ZImageTransformer2DModel()  # its defaults are those of the released model


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("size", "published"), [("4B", 3.876), ("9B", 9.079)])
def test_parameters_of_klein(size: str, published: float) -> None:
    """By hand: eight projections and two SwiGLU of 3 d in a double block, 9 d + 4 d in a single."""
    shape = KLEIN[size]
    d = shape["num_attention_heads"] * 128
    double, single = shape["num_layers"], shape["num_single_layers"]
    by_hand = (
        (double * (8 + 2 * 9) + single * (9 + 4)) * d * d
        + double * 4 * 128 + single * 2 * 128  # norms of queries and keys
        + (6 + 6 + 3) * d * d  # modulation of images, text, single blocks
        + (256 + d) * d  # time
        + (128 + WIDTH_OF_TEXT[size]) * d  # inputs
        + 2 * d * d + 128 * d  # output
    )  # fmt: skip
    assert count(klein(size)) == by_hand
    assert round(by_hand / 1e9, 3) == published


def test_parameters_of_z_image() -> None:
    d, ff, time = 3840, 10240, 256
    block = 4 * d * d + 2 * 128 + 3 * d * ff + 4 * d  # projections, SwiGLU, norms
    modulation = (time + 1) * 4 * d
    by_hand = (
        34 * block + 32 * modulation  # the two refiners of captions have none
        + (256 + 1) * 1024 + (1024 + 1) * time  # time
        + 2560 + (2560 + 1) * d + (64 + 1) * d  # inputs
        + (d + 1) * 64 + (time + 1) * d  # output
        + 2 * d  # padding
    )  # fmt: skip
    assert count(z_image()) == by_hand
    assert round(by_hand / 1e9, 3) == 6.155


@pytest.mark.parametrize(
    ("family", "size", "preset", "layers"),
    [
        ("flux2_klein", "4B", "attention", 60),  # diffusers' script
        ("flux2_klein", "4B", "attention_mlp", 100),  # musubi-tuner
        ("flux2_klein", "9B", "attention", 80),  # 8 x 4 and 24 x 2
        ("flux2_klein", "9B", "attention_mlp", 144),  # 8 x 12 and 24 x 2
        ("z_image", "", "attention", 136),  # diffusers' script
        ("z_image", "", "attention_mlp", 210),  # musubi-tuner, OneTrainer
    ],
)
def test_layers_of_the_presets(family: str, size: str, preset: str, layers: int) -> None:
    model = klein(size) if size else z_image()
    model.requires_grad_(False)
    targets = FAMILIES[family].presets[preset]
    add_lora(model, LoraSpec(r=32, alpha=32.0, dropout=0.0, targets=targets), seed=0)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert len({name.partition(".lora_")[0] for name in trained}) == layers
    if (size, preset) == ("4B", "attention_mlp"):
        assert round(sum(trained.values()) / 1e6, 1) == 48.2


@pytest.mark.parametrize(("family", "size"), [("flux2_klein", "4B"), ("z_image", "")])
def test_all_linear_is_every_linear_layer(family: str, size: str) -> None:
    model = klein(size) if size else z_image()
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    targets = FAMILIES[family].presets["all_linear"]
    add_lora(model, LoraSpec(r=4, alpha=4.0, dropout=0.0, targets=targets), seed=0)
    adapted = {
        name.partition(".lora_A")[0] for name, _ in model.named_modules() if ".lora_A" in name
    }
    assert adapted == linear
