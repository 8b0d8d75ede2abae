"""What the other smoke tests leave out of each family: cached equals decoded anew, and scores."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.smoke.conftest import TrainHere

pytestmark = pytest.mark.slow

FILE = "lora/pytorch_lora_weights.safetensors"


@pytest.fixture
def v_prediction(random_base: Path, tmp_path: Path) -> Path:
    """A random Stable Diffusion whose schedule says what 2.1's does."""
    folder = shutil.copytree(random_base, tmp_path / "v")
    path = folder / "scheduler/scheduler_config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "prediction_type": "v_prediction"}), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("sd21", "v_prediction"),
        ("sdxl", "random_xl"),
        ("kolors", "random_kolors"),
        ("z_image", "random_z_image"),
        ("flux2_klein", "random_klein"),
    ],
)
def test_cached_training_is_that_of_decoded_pictures_and_is_scored(
    model: str,
    base: str,
    request: pytest.FixtureRequest,
    pictures: Path,
    train_here: TrainHere,
    tmp_path: Path,
) -> None:
    settings = (
        f"model={model}",
        "model.variant=null",
        f"model.path={request.getfixturevalue(base)}",
        f"data.root={pictures}",
        *("data.resolution=32", "data.batch_size=8", "lora.r=8"),
        "lora.text_encoder.method=frozen",
        "scheduler=constant",
        "optim.unet_lr=1e-1",
        "trainer.max_steps=1",
        "sampling.num_steps=2",
        "sampling.num_prompts=2",
        "sampling.every_n_steps=0",
        "evaluation.every_n_steps=0",
        *("evaluation.face=tiny_face", "evaluation.clip.options.model=tiny"),
        "evaluation.image.options.model=tiny",
        "logger=none",
    )
    train_here(*settings, "data.cache=memory", f"run_dir={tmp_path / 'cached'}")
    train_here(*settings, "data.cache=off", "evaluation=none", f"run_dir={tmp_path / 'off'}")
    cached, off = load_file(tmp_path / "cached" / FILE), load_file(tmp_path / "off" / FILE)
    for key, value in off.items():  # batches of encoders round otherwise
        torch.testing.assert_close(cached[key], value, atol=1e-5, rtol=1e-4)
    report = json.loads((tmp_path / "cached/report.json").read_text("utf-8"))
    for row in ("base", "LoRA"):
        assert report["scores"][row]["num_pictures"] == 2
        assert isinstance(report["scores"][row]["values"]["clip_score"], float)
