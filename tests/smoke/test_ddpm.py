"""An unconditional model of pixels, trained as a user does, on pictures without captions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline
from safetensors.torch import load_file

from tests.models import TINY_PIXELS
from tests.smoke.conftest import TrainHere, write_pictures

pytestmark = pytest.mark.slow

ARCHITECTURE = [
    f"++model.architecture.{name}={value}".replace("'", "") for name, value in TINY_PIXELS.items()
]


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for caption in write_pictures(folder).parent.glob("pictures/*.txt"):
        caption.unlink()
    return [
        "experiment=unconditional",
        "model.path=null",
        f"data.root={folder}",
        "data.resolution=16",
        "data.batch_size=2",
        *ARCHITECTURE,
        "trainer.ema_decay=0.9",
        "trainer.accumulate_grad_batches=2",
        "checkpoint.every_n_steps=1",
        "sampling.num_steps=2",
        "sampling.num_seeds=3",
        "scheduler=constant",
    ]


def test_it_is_trained_drawn_scored_and_exported(
    settings: list[str],
    train_here: TrainHere,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    tiny = ("evaluation.image.options.model=tiny", "evaluation.every_n_steps=1")
    bf16 = "trainer.precision=bf16"  # slow on a processor without such units, so here alone
    train_here(*settings, *tiny, bf16, "trainer.max_steps=2", f"run_dir={run}")
    assert "KID" in capsys.readouterr().out
    report = json.loads((run / "report.json").read_text("utf-8"))
    assert {"base", "trained"} <= report["scores"].keys()
    assert report["scores"]["trained"]["num_pictures"] == 3
    assert isinstance(report["scores"]["trained"]["values"]["kid"], float)
    assert "LoRA" not in (run / "report.html").read_text("utf-8").partition("<h2>Repeat")[0]
    pipelines = [run / "pipeline", run / "last"]
    for folder in pipelines:
        pipeline = DDPMPipeline.from_pretrained(folder)
        assert pipeline.unet.config.block_out_channels == TINY_PIXELS["block_out_channels"]
    checkpoint = torch.load(run / "checkpoints/step_0000002/trainer.ckpt", weights_only=True)
    average = next(iter(checkpoint["callbacks"].values()))["average"]
    weights = load_file(run / "last/unet/diffusion_pytorch_model.safetensors")
    assert {f"unet.{name}" for name in weights} == average.keys()
    assert all(torch.equal(average[f"unet.{name}"], value) for name, value in weights.items())


@pytest.mark.parametrize("cache", ["memory", "off"])
def test_a_resumed_run_is_the_uninterrupted_one(
    settings: list[str], train_here: TrainHere, tmp_path: Path, cache: str
) -> None:
    settings = [*settings, f"data.cache.mode={cache}", "evaluation=none", "logger=none"]

    def end(folder: Path) -> dict[str, Any]:
        return torch.load(folder / "checkpoints/step_0000003/trainer.ckpt", weights_only=True)

    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train_here(*settings, "trainer.max_steps=3", f"run_dir={whole}")
    train_here(*settings, "trainer.max_steps=1", f"run_dir={parted}")
    train_here(f"resume={parted}", "trainer.max_steps=3")
    expected, found = end(whole), end(parted)
    for part in ("state_dict", "optimizer_states", "callbacks"):
        assert str(found[part]) == str(expected[part])
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value)
    untrained = [path.relative_to(whole) for path in (whole / "samples" / "base").glob("*.png")]
    assert len(untrained) == 3  # a resumed run shows them as they were, not what it goes on from
    file = "last/unet/diffusion_pytorch_model.safetensors"
    for path in (file, *untrained):
        assert (parted / path).read_bytes() == (whole / path).read_bytes(), path
