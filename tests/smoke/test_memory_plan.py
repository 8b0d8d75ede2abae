"""A run whose plan splits its batches averages as many more, and goes on with the same ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sdlora.commands.train import preflight
from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow

FILE = "last/pytorch_lora_weights.safetensors"


def split(memory: Any, now: Any, allowed: Any, room: int) -> tuple[Any, bool]:
    """Half of the batch where batches may change, as on a small card."""
    size = now.batch_size // 2 if allowed.smaller_batches else now.batch_size
    return replace(now, batch_size=size), True


def test_batches_are_split_and_stay_so(
    train_here: TrainHere,
    random_base: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = (
        *SMALL,
        *(f"model.path={random_base}", f"data.root={pictures}", "data.resolution=32"),
        *(
            "data.batch_size=2",
            "optimizer=sgd",
            "optim.unet_lr=0.1",
            "scheduler=constant",
            "trainer.max_steps=3",
        ),
    )
    halves, cut = tmp_path / "halves", tmp_path / "cut"
    monkeypatch.setattr(preflight, "chosen", split)
    train_here(*given, f"hydra.run.dir={halves}")
    train_here(*given, "trainer.max_steps=2", f"hydra.run.dir={cut}")
    stored = json.loads((cut / "config.json").read_text("utf-8"))
    assert stored["config"]["data"]["batch_size"] == 1
    assert stored["config"]["trainer"]["accumulate_grad_batches"] == 2
    assert stored["asked"]["data.batch_size"] == 2

    train_here(f"resume={cut}", "trainer.max_steps=3")
    weights, resumed = (load_file(run / FILE) for run in (halves, cut))
    assert weights.keys() == resumed.keys()
    for name, value in weights.items():
        assert torch.equal(value, resumed[name]), name
