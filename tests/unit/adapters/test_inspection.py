"""Inspection by headers: without torch, in two seconds; trigger words, alphas, readers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdlora.adapters.inspection import block_of, inspect_lora, trigger_words
from sdlora.adapters.key_roles import role_of
from tests.lora_kinds import ROWS

STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def big_file(path: Path) -> Path:
    """A file of SDXL's size in keys: 5,184 of them."""
    names = [
        f"lora_unet_{side}_blocks_{block}_attentions_{j}_transformer_blocks_{k}_attn{a}_to_{q}"
        for side in ("down", "up")
        for block in range(4)
        for j in range(3)
        for k in range(9)
        for a in (1, 2)
        for q in ("q", "k", "v", "out_0")
    ]
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors[f"{name}.lora_down.weight"] = torch.ones(1, 8, dtype=torch.half)
        tensors[f"{name}.lora_up.weight"] = torch.ones(8, 1, dtype=torch.half)
        tensors[f"{name}.alpha"] = torch.tensor(0.5, dtype=torch.bfloat16)
    save_file(tensors, path)
    return path


def test_five_thousand_keys_in_two_seconds_without_torch(repository: Path, tmp_path: Path) -> None:
    path = big_file(tmp_path / "big.safetensors")
    code = (
        "import sys, time\n"
        "from sdlora.commands.lora.arguments import main\n"
        f"main(['inspect', {str(path)!r}, '--json'])\n"
        "assert not {'torch', 'numpy', 'diffusers', 'hydra'} & set(sys.modules)\n"
        "assert time.process_time() < 2\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    part = facts["parts"]["unet"]
    assert part["adapters"] == {"LoRA": part["num_layers"]}
    assert 3 * part["num_layers"] == 5184
    assert part["alphas"] == {"0.5": part["num_layers"]}  # bfloat16, by hand


@pytest.mark.parametrize(
    ("metadata", "keys", "words"),
    [
        ({"modelspec.trigger_phrase": "sks man"}, (), ["sks man"]),
        ({"ss_tag_frequency": '{"10_sks dog": {"dog": 3}}'}, (), ["sks dog"]),
        ({"ss_dataset_dirs": '{"5_zwx": {"n_repeats": 5}}'}, (), ["zwx"]),
        ({"ss_tag_frequency": "{damaged"}, (), []),
        ({}, ("bundle_emb.<face>.clip_l", "bundle_emb.<face>.clip_g"), ["<face>"]),
        ({}, (), []),
    ],
)
def test_trigger_words(metadata: dict[str, str], keys: tuple[str, ...], words: list[str]) -> None:
    assert trigger_words(metadata, keys) == words


@pytest.mark.parametrize(
    ("key", "layer", "role"),
    [
        (f"{STEM}.lora_down.weight", STEM, "A"),
        ("unet.a.to_q.lora_A.default.weight", "unet.a.to_q", "A"),
        ("unet.a.to_q.lora_B.my-adapter.weight", "unet.a.to_q", "B"),
        ("a.processor.to_q_lora.up.weight", "a.processor.to_q", "B"),
        ("text_encoder.q_proj.lora_linear_layer.down.weight", "text_encoder.q_proj", "A"),
        ("unet.a.lora.up.weight", "unet.a", "B"),
        ("a.lora_B.default.bias", "a", "B_bias"),
        ("a.lora_magnitude_vector.default.weight", "a", "magnitude"),
        ("a.lora_magnitude_vector", "a", "magnitude"),
        ("a.oft_R.scaled_oft", "a", "oft_scaled"),
        ("a.oft_R.default.weight", "a", "oft_R"),
        ("a.lokr_w2_b.default", "a", "lokr_w2_b"),
        ("a.b1.weight", "a", "b1"),
    ],
)
def test_roles_of_keys_in_every_spelling(key: str, layer: str, role: str) -> None:
    found = role_of(key)
    assert found is not None
    assert (found.layer, found.name) == (layer, role)


@pytest.mark.parametrize("key", ["bundle_emb.x.clip_l", "conv_in.bias", "a.lora_embedding_A", "x"])
def test_what_is_of_no_adapter(key: str) -> None:
    assert role_of(key) is None


def test_blocks() -> None:
    assert block_of("down_blocks.1.attentions.0.proj_in") == "down_blocks.1"
    assert block_of("mid_block.attentions.0.proj_in") == "mid_block"
    assert block_of("encoder.layers.11.mlp.fc1") == "encoder.layers.11"


READERS = {
    "LoCon": {
        **dict.fromkeys(("diffusers", "ComfyUI", "A1111", "sd-scripts"), "whole"),
        "InvokeAI": "does not recognise it",  # of convolutions alone
    },
    "kohya": {
        **dict.fromkeys(("ComfyUI", "A1111", "InvokeAI"), "whole"),
        "diffusers": "refuses it, for a text encoder without out_proj",
    },
    "kohya, lora_A": {"A1111": "drops alpha", "InvokeAI": "refuses it", "sd-scripts": "nothing"},
    "diffusers": {
        "diffusers": "whole",
        "ComfyUI": "leaves out 2 of 3 layers",  # the U-Net's
        "A1111": "nothing",
        "sd-scripts": "nothing",
    },
    "attention processors": {"diffusers": "nothing", "A1111": "nothing"},
    "ComfyUI LoraSave": {"ComfyUI": "whole", "diffusers": "nothing", "A1111": "nothing"},
    "SimpleTuner LoKr": {"ComfyUI": "whole", "diffusers": "refuses", "A1111": "nothing"},
    "LoHa": {"ComfyUI": "whole", "A1111": "whole", "diffusers": "refuses", "sd-scripts": "nothing"},
    "IA3 on inputs": {"A1111": "whole", "InvokeAI": "does not recog", "ComfyUI": "nothing"},
    "GLoRA": {"ComfyUI": "whole", "A1111": "whole", "InvokeAI": "refuses it"},
    "DoRA by outputs": {
        "diffusers": "drops its magnitudes",
        "ComfyUI": "length of W alone",
        "A1111": "over the other axis",
        "InvokeAI": "over the other axis",
        "sd-scripts": "drops its magnitudes",
    },
    "DoRA by inputs": {"ComfyUI": "whole", "A1111": "whole", "diffusers": "drops"},
}


@pytest.mark.parametrize("name", READERS)
def test_what_programs_make_of_a_file(name: str, tmp_path: Path) -> None:
    found = inspect_lora(ROWS[name].make().file(tmp_path)).readers
    for program, part in READERS[name].items():
        assert part in found[program], (program, found[program])


@pytest.mark.parametrize(("right", "said"), [("lokr_w2", "whole"), ("lokr_w2_a", "recognise")])
def test_a_lokr_of_factors_tells_invokeai_no_base(right: str, said: str, tmp_path: Path) -> None:
    layer = STEM.replace("attn1_to_q", "attn2_to_k")
    tensors = {f"{layer}.lokr_w1": torch.ones(2, 2), f"{layer}.{right}": torch.ones(4, 8)}
    if right == "lokr_w2_a":
        tensors[f"{layer}.lokr_w2_b"] = torch.ones(8, 384)
    path = tmp_path / "lokr.safetensors"
    save_file(tensors, path, {"ss_base_model_version": "sd_v1"})
    found = inspect_lora(path).readers
    assert said in found["InvokeAI"]
    assert "whole" in found["A1111"]


def test_sd_scripts_passes_over_layers_around_the_blocks(tmp_path: Path) -> None:
    ends = {"lora_down.weight": torch.ones(2, 320), "lora_up.weight": torch.ones(1280, 2)}
    layers = ("lora_unet_time_embedding_linear_1", f"{STEM[:-5]}_to_k")
    path = tmp_path / "around.safetensors"
    tensors = {f"{each}.{end}": v.clone() for each in layers for end, v in ends.items()}
    save_file(tensors, path)
    assert "leaves out 1 of 2 layers" in inspect_lora(path).readers["sd-scripts"]
