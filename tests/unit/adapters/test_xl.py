"""SDXL: a third part, its names in every layout, and files of other trainers."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdlora.adapters.file_writing import write_diffusers, write_kohya
from sdlora.adapters.formats import apply_lora, read_lora, remove_lora
from sdlora.adapters.lora import adapted_layers, add_lora, lora_state_dict
from sdlora.adapters.spec import LoraError, LoraSpec
from sdlora.export.layouts import export_lora
from sdlora.export.proof import prove_export
from sdlora.models.sd import SD
from sdlora.models.sdxl import SDXL
from tests.models import random_xl, write_random_xl
from tests.unit.adapters.tiny_models import ATTENTION, EVERYTHING, randomise

PARTS = ("unet", "text_encoder", "text_encoder_2")

FILE = "pytorch_lora_weights.safetensors"
TEXT = EVERYTHING["text_encoder"]
UNET = (*EVERYTHING["unet"], "add_embedding.linear_1", "add_embedding.linear_2")


def parts_of(pipeline: StableDiffusionXLPipeline) -> dict[str, nn.Module]:
    return {part: getattr(pipeline, part).eval() for part in PARTS}


def adapted(targets: Mapping[str, tuple[str, ...]], **spec: object) -> dict[str, nn.Module]:
    """SDXL's parts with LoRAs whose alpha is not their rank, another pair for each part."""
    parts = parts_of(random_xl())
    pairs = {"unet": (4, 6.0), "text_encoder": (3, 1.25), "text_encoder_2": (2, 5.0)}
    for part, names in targets.items():
        r, alpha = pairs[part]
        values: dict = {"r": r, "alpha": alpha, "dropout": 0.0, "targets": names, **spec}
        randomise(add_lora(parts[part], LoraSpec(**values), seed=1))
    return parts


@pytest.fixture(scope="module")
def tuned() -> dict[str, nn.Module]:
    return adapted({"unet": UNET, "text_encoder": TEXT, "text_encoder_2": TEXT})


@torch.no_grad()
def outputs(parts: Mapping[str, nn.Module]) -> Tensor:
    """What the parts give on one input, each by itself, as one vector."""
    draws = torch.Generator().manual_seed(3)
    z_t = torch.randn(2, 4, 16, 16, generator=draws)
    context = torch.randn(2, 77, 40, generator=draws)
    added = {
        "text_embeds": torch.randn(2, 24, generator=draws),
        "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2),
    }
    ids = torch.randint(0, 190, (2, 77), generator=draws)
    noise = parts["unet"](z_t, torch.tensor([3, 700]), context, added_cond_kwargs=added).sample
    first = parts["text_encoder"](ids).last_hidden_state
    second = parts["text_encoder_2"](ids)
    found = (noise, first, second.last_hidden_state, second.text_embeds)
    return torch.cat([each.flatten() for each in found])


def applied(path: Path) -> dict[str, nn.Module]:
    parts = parts_of(random_xl())
    apply_lora(parts, read_lora(path))
    return parts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own call
def test_every_layout_gives_the_model_back(tmp_path: Path, tuned: dict[str, nn.Module]) -> None:
    expected = outputs(tuned)
    assert not torch.allclose(outputs(parts_of(random_xl())), expected, atol=1e-2)
    folder = tmp_path / "lora"
    files = export_lora(folder, parts=tuned, names=SDXL.trainable, metadata={}, name="face")
    assert sorted(files) == sorted(path for path in folder.rglob("*") if path.is_file())
    for name in (FILE, "face.safetensors"):  # each program by itself, first diffusers
        pipeline = random_xl()
        pipeline.load_lora_weights(str(folder), weight_name=name)
        found = outputs(parts_of(pipeline))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for name in (FILE, "face.safetensors"):  # then our reader
        parts = applied(folder / name)
        torch.testing.assert_close(outputs(parts), expected, rtol=0, atol=1e-5)
        for part, module in parts.items():
            assert adapted_layers(module).keys() == adapted_layers(tuned[part]).keys()
    parts = parts_of(random_xl())
    for part, module in parts.items():
        PeftModel.from_pretrained(module, str(folder / part))
    # the same numbers, but peft freezes what it loads, for which torch has other CPU kernels
    torch.testing.assert_close(outputs(parts), expected, rtol=1e-5, atol=1e-5)
    for path in (folder / FILE, folder / "face.safetensors"):
        path.unlink()
    assert read_lora(folder).layout == "peft"  # all its folders together
    assert torch.equal(outputs(applied(folder)), expected)


def test_the_export_is_proved(tmp_path: Path, tuned: dict[str, nn.Module]) -> None:
    folder = tmp_path / "lora"
    export_lora(folder, parts=tuned, names=SDXL.trainable, metadata={}, name="face")
    differences = prove_export(folder, random_xl, tuned)
    layouts = ("diffusers", "kohya", "peft")
    assert differences.keys() == {f"{layout}/{part}" for layout in layouts for part in PARTS}
    assert max(v for what, v in differences.items() if not what.startswith("peft")) <= 1e-5
    assert max(differences.values()) < 1e-5  # peft: see above


@pytest.mark.parametrize("part", PARTS)
def test_one_part_alone(part: str, tmp_path: Path) -> None:
    targets = {"unet": ATTENTION["unet"], "text_encoder": TEXT, "text_encoder_2": TEXT}
    parts = adapted({part: targets[part]})
    folder = tmp_path / "lora"
    files = export_lora(folder, parts=parts, names=SDXL.trainable, metadata={}, name="face")
    assert {path.parent.name for path in files} == {"lora", part}
    assert max(prove_export(folder, random_xl, parts).values()) < 1e-5
    assert torch.equal(outputs(applied(folder / part)), outputs(parts))


def test_mixed_ranks_and_rslora(tmp_path: Path) -> None:
    spec = {"rank_pattern": {"fc1": 1}, "alpha_pattern": {"q_proj": 7.0}}
    parts = adapted({"text_encoder": TEXT, "text_encoder_2": TEXT}, use_rslora=True, **spec)
    export_lora(tmp_path / "lora", parts=parts, names=SDXL.trainable, metadata={}, name="face")
    assert max(prove_export(tmp_path / "lora", random_xl, parts).values()) < 1e-5


def test_keys_of_both_text_encoders(tmp_path: Path, tuned: dict[str, nn.Module]) -> None:
    kohya = load_file(
        write_kohya(tmp_path / "a.safetensors", parts=tuned, names=SDXL.trainable, metadata={})
    )
    starts = ("lora_unet_", "lora_te1_text_model_encoder_", "lora_te2_text_model_encoder_")
    assert all(key.startswith(starts) for key in kohya)
    assert "lora_te2_text_model_encoder_layers_1_self_attn_q_proj.lora_down.weight" in kohya
    assert kohya["lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha"] == 2.0  # the rank
    assert "lora_unet_label_emb_0_0.lora_up.weight" in kohya
    assert "lora_unet_input_blocks_4_1_proj_in.lora_up.weight" in kohya
    theirs = load_file(
        write_diffusers(tmp_path / "b.safetensors", parts=tuned, names=SDXL.trainable, metadata={})
    )
    for part in PARTS[1:]:
        start = f"{part}.text_model.encoder.layers."
        assert any(key.startswith(start) for key in theirs)
        assert all(key.startswith(start) for key in theirs if key.startswith(f"{part}."))


def test_a_model_with_one_text_encoder_keeps_its_names(tmp_path: Path) -> None:
    parts = adapted({"text_encoder": TEXT})
    del parts["text_encoder_2"]
    kohya = load_file(
        write_kohya(tmp_path / "a.safetensors", parts=parts, names=SD.trainable, metadata={})
    )
    assert all(key.startswith("lora_te_text_model_encoder_") for key in kohya)


def sgm_name(layer: str) -> str:
    """A layer of SDXL's UNet in the original code's names, counted along its blocks.

    Two layers a block: input_blocks 1, 2 resnets, 3 downsampler, 4, 5, 6, 7, 8; output_blocks 0 to
    2, 3 to 5, 6 to 8, each third with the upsampler as its third entry.
    """

    def block(match: re.Match[str]) -> str:
        side, number, kind, index = match[1], int(match[2]), match[3], int(match[4])
        entry = {"resnets": 0, "attentions": 1, "upsamplers": 2, "downsamplers": 0}[kind]
        if side == "up":
            place = 3 * number + (2 if kind == "upsamplers" else index)
            return f"output_blocks.{place}.{entry}"
        place = 3 * number + (3 if kind == "downsamplers" else 1 + index)
        return f"input_blocks.{place}.{entry}"

    sampled = "downsamplers" in layer
    whole = {
        "conv_in": "input_blocks.0.0",
        "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
    }
    if layer in whole:
        return whole[layer]
    layer = re.sub(r"^(down|up)_blocks\.(\d)\.(\w+)\.(\d)", block, layer)
    for ours, theirs in (
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
        (".conv1", ".in_layers.2"),
        (".conv2", ".out_layers.3"),
        (".time_emb_proj", ".emb_layers.1"),
        (".conv_shortcut", ".skip_connection"),
    ):
        layer = layer.replace(ours, theirs)
    return layer.removesuffix("conv") + "op" if sampled else layer


def test_names_are_those_of_kohyas_trainer(tmp_path: Path, tuned: dict[str, nn.Module]) -> None:
    """It trains SDXL in the original code, so its files have the UNet's names of that."""
    assert sgm_name("down_blocks.2.attentions.1.proj_in") == "input_blocks.8.1.proj_in"
    assert sgm_name("up_blocks.0.upsamplers.0.conv") == "output_blocks.2.2.conv"
    assert sgm_name("down_blocks.0.downsamplers.0.conv") == "input_blocks.3.0.op"
    names = {
        f"lora_unet_{layer.replace('.', '_')}": f"lora_unet_{sgm_name(layer).replace('.', '_')}"
        for layer in adapted_layers(tuned["unet"])
    }
    ours = load_file(
        write_kohya(tmp_path / "ours.safetensors", parts=tuned, names=SDXL.trainable, metadata={})
    )
    found = {key.split(".", 1)[0] for key in ours if key.startswith("lora_unet_")}
    assert found == set(names.values())
    lora_file = read_lora(tmp_path / "ours.safetensors")
    assert {part: spec.r for part, spec in lora_file.specs.items()} == dict(
        zip(PARTS, (4, 3, 2), strict=True)
    )


def test_files_with_names_of_diffusers(tmp_path: Path, tuned: dict[str, nn.Module]) -> None:
    """Earlier ones of this project have them in the kohya layout, and others' too."""
    originals = {
        f"lora_unet_{sgm_name(layer).replace('.', '_')}": f"lora_unet_{layer.replace('.', '_')}"
        for layer in adapted_layers(tuned["unet"])
    }
    ours = load_file(
        write_kohya(tmp_path / "ours.safetensors", parts=tuned, names=SDXL.trainable, metadata={})
    )
    theirs = {}
    for key, value in ours.items():
        stem, rest = key.split(".", 1)
        theirs[f"{originals.get(stem, stem)}.{rest}"] = value
    assert not any("put_blocks" in key for key in theirs)
    save_file(theirs, tmp_path / "theirs.safetensors")
    found = outputs(applied(tmp_path / "theirs.safetensors"))
    torch.testing.assert_close(found, outputs(tuned), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "old diffusers"])
def test_a_projection_that_others_trained(layout: str, tmp_path: Path) -> None:
    parts = adapted({"text_encoder_2": ("text_projection", "fc1")})
    state = lora_state_dict(parts["text_encoder_2"])
    tensors = {}
    for key, value in state.items():
        layer, matrix = key.removesuffix(".weight").rsplit(".", 1)
        side = {"lora_A": "down", "lora_B": "up"}[matrix]
        if layout == "kohya":
            stem = f"lora_te2_{layer.replace('.', '_')}"
            tensors |= {f"{stem}.lora_{side}.weight": value, f"{stem}.alpha": torch.tensor(5.0)}
        elif layout == "diffusers":
            tensors[f"text_encoder_2.{key}"] = value
        else:
            middle = "lora" if layer == "text_projection" else "lora_linear_layer"
            tensors[f"text_encoder_2.{layer}.{middle}.{side}.weight"] = value
    if layout != "kohya":  # whose files say alpha nowhere: it is the rank
        tensors = {k: v * 2.5 if v.shape[1] == 2 else v for k, v in tensors.items()}
    save_file(tensors, tmp_path / "theirs.safetensors")
    again = outputs(applied(tmp_path / "theirs.safetensors"))
    torch.testing.assert_close(again, outputs(parts), rtol=1e-5, atol=1e-5)


def test_a_file_for_the_other_family_is_refused(
    tmp_path: Path, tuned: dict[str, nn.Module]
) -> None:
    path = write_kohya(tmp_path / "xl.safetensors", parts=tuned, names=SDXL.trainable, metadata={})
    parts = parts_of(random_xl())
    first = {part: parts[part] for part in ("unet", "text_encoder")}
    with pytest.raises(LoraError, match="text_encoder_2: the model has no such part"):
        apply_lora(first, read_lora(path))
    assert not adapted_layers(first["unet"])


@pytest.mark.slow
def test_a_lora_comes_off_again(tmp_path: Path, tuned: dict[str, nn.Module]) -> None:
    path = write_diffusers(
        tmp_path / "a.safetensors", parts=tuned, names=SDXL.trainable, metadata={}
    )
    parts = parts_of(random_xl())
    before = outputs(parts)
    for _ in range(2):
        apply_lora(parts, read_lora(path))
        remove_lora(*parts.values())
    assert torch.equal(outputs(parts), before)


def test_dora_on_a_text_encoder_is_refused(tmp_path: Path) -> None:
    parts = adapted({"text_encoder_2": TEXT}, use_dora=True)
    with pytest.raises(LoraError, match="text_encoder_2: a DoRA"):
        export_lora(tmp_path / "lora", parts=parts, names=SDXL.trainable, metadata={}, name="face")


def test_dora_on_the_unet(tmp_path: Path) -> None:
    parts = adapted({"unet": ATTENTION["unet"]}, use_dora=True)
    export_lora(tmp_path / "lora", parts=parts, names=SDXL.trainable, metadata={}, name="face")
    assert max(prove_export(tmp_path / "lora", random_xl, parts).values()) < 1e-5


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers
def test_the_random_model_is_a_whole_pipeline(tmp_path: Path) -> None:
    folder = write_random_xl(tmp_path / "xl")
    load = partial(StableDiffusionXLPipeline.from_pretrained, local_files_only=True)
    again = load(folder, add_watermarker=False)
    assert torch.equal(outputs(parts_of(again)), outputs(parts_of(random_xl())))
    draws = torch.Generator().manual_seed(0)
    again.set_progress_bar_config(disable=True)
    drawn = again("a cat", num_inference_steps=2, height=64, width=64, generator=draws)
    assert drawn.images[0].size == (64, 64)
