"""``train.py`` and ``evaluate.py`` on Stable Diffusion XL, both text encoders trained."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow


@pytest.fixture
def xl(random_xl: Path, pictures: Path) -> tuple[str, ...]:
    """Overrides of a small run."""
    return (
        "model=sdxl",
        f"model.path={random_xl}",
        f"data.root={pictures}",
        *("data.resolution=32", "data.batch_size=8", "lora.r=8"),
        "lora.text_encoder.method=lora",
        "scheduler=constant",
        "checkpoint.every_n_steps=1",
        *SMALL,
    )


def test_a_resumed_run_is_the_uninterrupted_one(
    xl: tuple[str, ...], train_here: TrainHere, tmp_path: Path
) -> None:
    train_here(*xl, "trainer.max_steps=2", f"run_dir={tmp_path / 'whole'}")
    train_here(*xl, "trainer.max_steps=1", f"run_dir={tmp_path / 'parted'}")
    train_here(f"resume={tmp_path / 'parted'}", "trainer.max_steps=2")
    file = "lora/pytorch_lora_weights.safetensors"
    expected, found = load_file(tmp_path / "whole" / file), load_file(tmp_path / "parted" / file)
    assert {key.split(".")[0] for key in expected} == {"unet", "text_encoder", "text_encoder_2"}
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert any(value.abs().max() > 0 for key, value in expected.items() if "lora_B" in key)


def test_frozen_encoders_are_cached_and_the_lora_is_drawn_with(
    xl: tuple[str, ...], train_here: TrainHere, tmp_path: Path
) -> None:
    frozen = ("lora.text_encoder.method=frozen", "trainer.max_steps=1", "optim.unet_lr=1e-1")
    tensors = {}
    for cache in ("memory", "off"):
        run = tmp_path / cache
        train_here(*xl, *frozen, f"data.cache={cache}", f"run_dir={run}")
        tensors[cache] = load_file(run / "lora" / "pytorch_lora_weights.safetensors")
    assert {key.split(".")[0] for key in tensors["off"]} == {"unet"}
    for key, value in tensors["off"].items():
        torch.testing.assert_close(tensors["memory"][key], value, atol=1e-5, rtol=1e-4)
    few = ("sampling.num_prompts=1", "lora_scale=0,1", f"run_dir={tmp_path / 'drawn'}")
    train_here(f"run={tmp_path / 'off'}", *few, evaluate=True)
    folders = json.loads((tmp_path / "drawn/report.json").read_text("utf-8"))["pictures"]
    base, off, on = (
        next((tmp_path / "drawn" / folders[name]).glob("*.png")).read_bytes()
        for name in ("base", "LoRA x0", "LoRA x1")
    )
    assert base == off != on
