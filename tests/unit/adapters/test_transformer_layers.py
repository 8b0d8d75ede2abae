"""LoRA files of Z-Image and FLUX.2 klein in the spellings of other programs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2KleinPipeline, ZImagePipeline
from safetensors.torch import save_file
from torch import Tensor

from sdlora.adapters.formats import read_lora
from sdlora.adapters.inspection import inspect_lora
from sdlora.adapters.spec import LoraError
from sdlora.adapters.transformer_names import diffusers_layers
from sdlora.export.lora_files import write_lora

R = 2

Z_IMAGE = {
    "layers.3.attention.qkv": (3 * 3840, 3840),
    "layers.3.attention.out": (3840, 3840),
    "layers.3.feed_forward.w1": (10240, 3840),
    "layers.3.feed_forward.w2": (3840, 10240),
    "noise_refiner.0.attention.qkv": (3 * 3840, 3840),
}
SPLIT_Z_IMAGE = {
    "layers.3.attention.to_q": (3840, 3840),
    "layers.3.attention.to_out.0": (3840, 3840),
    "context_refiner.1.feed_forward.w3": (10240, 3840),
}
KLEIN = {
    "double_blocks.0.img_attn.qkv": (3 * 3072, 3072),
    "double_blocks.0.txt_attn.qkv": (3 * 3072, 3072),
    "double_blocks.0.img_attn.proj": (3072, 3072),
    "double_blocks.0.txt_attn.proj": (3072, 3072),
    "double_blocks.0.img_mlp.0": (6 * 3072, 3072),
    "double_blocks.0.txt_mlp.2": (3072, 3 * 3072),
    "single_blocks.7.linear1": (9 * 3072, 3072),
    "single_blocks.7.linear2": (3072, 4 * 3072),
}


def tensors_of(sizes: dict[str, tuple[int, int]], *, flat: bool, alpha: float | None) -> Any:
    """A LoRA of these layers, with names of dots or of ``_``."""
    draws = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for name, (out, inside) in sizes.items():
        stem = f"lora_unet_{name.replace('.', '_')}" if flat else f"diffusion_model.{name}"
        down, up = ("lora_down", "lora_up") if flat else ("lora_A", "lora_B")
        found[f"{stem}.{down}.weight"] = torch.randn(R, inside, generator=draws)
        found[f"{stem}.{up}.weight"] = torch.randn(out, R, generator=draws)
        if alpha is not None:
            found[f"{stem}.alpha"] = torch.tensor(alpha)
    return found


def probes(layers: dict[str, tuple[Tensor, Tensor, float]]) -> dict[str, Tensor]:
    """``scale * B A x`` of each layer on a fixed x."""
    found = {}
    for name, (a, b, scale) in layers.items():
        x = torch.linspace(-1, 1, a.shape[1])
        found[name] = scale * (b @ (a @ x))
    return found


def read_here(path: Path) -> dict[str, Tensor]:
    layers = read_lora(path).layers("transformer")
    return probes({n: (t["A"], t["B"], t["alpha"].item() / R) for n, t in layers.items()})


def read_by_diffusers(pipeline: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    state = pipeline.lora_state_dict(dict(tensors))
    names = {key.rsplit(".lora_", 1)[0] for key in state}
    layers = {
        name.removeprefix("transformer."): (
            state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"], 1.0
        )
        for name in names
    }  # fmt: skip
    return probes(layers)


@pytest.mark.parametrize(
    ("pipeline", "sizes", "flat", "alpha"),
    [
        (ZImagePipeline, SPLIT_Z_IMAGE, False, None),
        (ZImagePipeline, SPLIT_Z_IMAGE, False, 1.0),
        (ZImagePipeline, SPLIT_Z_IMAGE, True, 1.0),
        (Flux2KleinPipeline, KLEIN, False, None),
        (Flux2KleinPipeline, KLEIN, True, 1.0),
    ],
)
def test_they_are_read_as_diffusers_reads_them(
    pipeline: Any, sizes: dict[str, tuple[int, int]], flat: bool, alpha: float, tmp_path: Path
) -> None:
    tensors = tensors_of(sizes, flat=flat, alpha=alpha)
    save_file(tensors, tmp_path / "a.safetensors")
    ours, theirs = read_here(tmp_path / "a.safetensors"), read_by_diffusers(pipeline, tensors)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-4)


def test_what_diffusers_drops_is_read_by_the_rule(tmp_path: Path) -> None:
    """A fused layer under ``diffusion_model.``, which its converter does not map."""
    tensors = tensors_of(Z_IMAGE, flat=False, alpha=1.0)
    save_file(tensors, tmp_path / "a.safetensors")
    found = read_here(tmp_path / "a.safetensors")
    assert len(found) == 3 + 1 + 1 + 1 + 3
    a, b = (tensors[f"diffusion_model.layers.3.attention.qkv.lora_{x}.weight"] for x in "AB")
    whole = probes({"qkv": (a, b, 1.0 / R)})["qkv"]
    parts = [found[f"layers.3.attention.to_{x}"] for x in "qkv"]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_a_name_that_nobody_knows_is_listed(tmp_path: Path) -> None:
    tensors = tensors_of(SPLIT_Z_IMAGE, flat=False, alpha=None)
    stem = "diffusion_model.layers.3.new_thing"
    tensors |= {
        f"{stem}.lora_A.weight": torch.ones(2, 4),
        f"{stem}.lora_B.weight": torch.ones(4, 2),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LoraError, match="layers.3.new_thing"):
        read_lora(tmp_path / "a.safetensors")
    assert len(read_lora(tmp_path / "a.safetensors", skip_unknown=True).layers("transformer")) == 3


def test_other_families_have_no_names_here() -> None:
    assert diffusers_layers("diffusion_model.input_blocks.1.1.proj_in", "sd") == ()


def test_klein_is_not_judged_again_under_its_new_names(tmp_path: Path) -> None:
    few = {name: KLEIN[name] for name in list(KLEIN)[:2]}
    tensors = tensors_of(few, flat=False, alpha=None)
    save_file(tensors, tmp_path / "a.safetensors", {"ss_base_model_version": "flux2_klein"})
    lora = read_lora(tmp_path / "a.safetensors")
    assert lora.family.title == "FLUX.2"
    assert len(lora.layers("transformer")) == 6


def test_peft_folders_keep_the_names(tmp_path: Path) -> None:
    save_file(tensors_of(SPLIT_Z_IMAGE, flat=False, alpha=1.0), tmp_path / "a.safetensors")
    lora = read_lora(tmp_path / "a.safetensors")
    write_lora(tmp_path / "peft", lora, "peft")
    again = read_lora(tmp_path / "peft")
    assert again.layers("transformer").keys() == set(SPLIT_Z_IMAGE)
    assert inspect_lora(tmp_path / "peft").family == "Z-Image"


def test_a_fused_dora_is_split_and_a_second_one_is_listed(tmp_path: Path) -> None:
    sizes = {"layers.3.attention.qkv": (3 * 3840, 3840)}
    tensors = tensors_of(sizes, flat=False, alpha=None)
    stem = "diffusion_model.layers.3.attention.qkv"
    doras = {**tensors, f"{stem}.dora_scale": torch.arange(3 * 3840.0).reshape(-1, 1)}
    save_file(doras, tmp_path / "dora.safetensors")
    found = read_lora(tmp_path / "dora.safetensors").layers("transformer")
    assert found["layers.3.attention.to_k"]["magnitude"][0] == 3840.0
    twice = tensors | tensors_of(SPLIT_Z_IMAGE, flat=False, alpha=None)
    save_file(twice, tmp_path / "twice.safetensors")
    with pytest.raises(LoraError, match="layers.3.attention.to_q: of no part"):
        read_lora(tmp_path / "twice.safetensors")
