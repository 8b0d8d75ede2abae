"""``train.py`` on a checkpoint in one file gives what it gives on the same model in a folder."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tests.single_file import write_single_file
from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow


def test_the_lora_is_that_of_the_same_model_in_a_folder(
    random_base: Path, pictures: Path, train_here: TrainHere, tmp_path: Path
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    file = write_single_file(tmp_path / "model.safetensors", pipeline, open_clip=False)
    small = (f"data.root={pictures}", "data.resolution=32", "trainer.max_steps=1", *SMALL)
    loras = []
    for name, base in (
        ("folder", (f"model.path={random_base}",)),
        ("file", (f"model.path={file}", f"model.config={random_base}")),
    ):
        train_here(*small, *base, f"run_dir={tmp_path / name}")
        loras.append(load_file(tmp_path / name / "lora/pytorch_lora_weights.safetensors"))
    assert loras[0].keys() == loras[1].keys()
    assert all(torch.equal(loras[1][key], value) for key, value in loras[0].items())
