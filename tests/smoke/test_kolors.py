"""``train.py`` and ``evaluate.py`` on Kolors: cache, resume, proved export, pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow

FILE = "lora/pytorch_lora_weights.safetensors"


@pytest.fixture
def kolors(random_kolors: Path, pictures: Path) -> tuple[str, ...]:
    """Overrides of a small run."""
    return (
        "model=kolors",
        "model.variant=null",
        f"model.path={random_kolors}",
        f"data.root={pictures}",
        "data.resolution=32",
        "lora.text_encoder.method=frozen",
        "scheduler=constant",
        "trainer.gradient_checkpointing=true",
        "optim.unet_lr=1e-1",
        "checkpoint.every_n_steps=1",
        *SMALL,
    )


def test_training_resume_export_and_drawing(
    kolors: tuple[str, ...], train_here: TrainHere, tmp_path: Path
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train_here(*kolors, "trainer.max_steps=2", f"run_dir={whole}")
    train_here(*kolors, "trainer.max_steps=1", f"run_dir={parted}")
    train_here(f"resume={parted}", "trainer.max_steps=2")
    expected, resumed = load_file(whole / FILE), load_file(parted / FILE)
    assert {key.split(".")[0] for key in expected} == {"unet"}
    assert any(value.abs().max() > 0 for key, value in expected.items() if "lora_B" in key)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(resumed[key], value) for key, value in expected.items())

    with safe_open(whole / "lora/my_lora.safetensors", "pt") as kohya:
        header = kohya.metadata()
    assert header["ss_base_model_version"] == "kolors"
    assert header["modelspec.architecture"] == "kolors/lora"

    drawn = ("sampling.num_prompts=1", "lora_scale=0,1", f"run_dir={tmp_path / 'drawn'}")
    train_here(f"run={whole}", *drawn, evaluate=True)
    folders = json.loads((tmp_path / "drawn/report.json").read_text("utf-8"))["pictures"]
    base, off, on = (
        next((tmp_path / "drawn" / folders[name]).glob("*.png")).read_bytes()
        for name in ("base", "LoRA x0", "LoRA x1")
    )
    assert base == off != on


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "lora.text_encoder.method=lora",
            "lora.text_encoder.method=lora: the text encoder of Kolors cannot be trained; "
            "set lora.text_encoder.method=frozen",
        ),
        ("model.clip_skip=1", "model.clip_skip=1: Kolors has no CLIP to leave layers out of"),
        ("data.captions.max_chunks=2", "data.captions.max_chunks=2: Kolors reads captions in one"),
    ],
)
def test_what_the_family_cannot_do_is_an_error(
    kolors: tuple[str, ...],
    message_of: Callable[..., str],
    override: str,
    message: str,
    tmp_path: Path,
) -> None:
    nowhere = "model.path=owner/no-such-model"  # nothing is fetched or read before
    assert message in message_of(*kolors, nowhere, override, f"run_dir={tmp_path}")
