"""The default run's losses, LoRA and scores, to the bit: what a change of structure must keep.

The numbers in ``golden/`` belong to one version of torch and one kind of processor, as sums are
ordered by both; ``kernels`` is a hash of a few results of torch's own, by which they are told. On
another machine losses and scores are compared closely instead. To write them anew, after a change
that is meant to change them: ``SDLORA_WRITE_GOLDEN=1 pytest -n 0 tests/smoke/test_golden.py``.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from tests.smoke.conftest import TrainHere

GOLDEN = Path(__file__).parent / "golden"

FEW = (
    "trainer.max_steps=4",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "sampling.num_prompts=2",
    "sampling.num_steps=2",
    "sampling.every_n_steps=0",
    "evaluation.every_n_steps=0",
    "logger=none",
)

VARIANTS = {
    "unet": ("lora.text_encoder.method=frozen", "evaluation=none"),
    "text_encoder": (),
    "buckets": (
        "evaluation=none",
        "data.buckets.mode=auto",
        "data.buckets.min_side=48",
        "data.batch_size=3",
        "trainer.accumulate_grad_batches=2",
        "data.flip=true",
    ),
}


def kernels() -> str:
    """Hash of what torch computes here from fixed numbers, with gradients, on one thread."""
    x = torch.sin(torch.arange(2 * 32 * 16 * 16, dtype=torch.float32)).view(2, 32, 16, 16)
    weight = torch.cos(torch.arange(64 * 32 * 9, dtype=torch.float32)).view(64, 32, 3, 3)
    weight.requires_grad_()
    y = functional.silu(functional.group_norm(functional.conv2d(x, weight, padding=1), 8))
    tokens = functional.layer_norm(y.flatten(2).mT, (64,))
    attended = functional.scaled_dot_product_attention(*[tokens.unflatten(2, (4, 16)).mT] * 3)
    (attended**2).mean().backward()
    assert weight.grad is not None
    found = (attended.detach(), weight.grad, tokens.detach() @ tokens.detach().mT)
    return digest({str(number): tensor for number, tensor in enumerate(found)})


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names and bytes, in the order of names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].contiguous().numpy().tobytes())
    return found.hexdigest()


def result_of(run: Path) -> dict[str, Any]:
    """What is pinned of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    report = json.loads((run / "report.json").read_text("utf-8"))
    return {
        "torch": torch.__version__.partition("+")[0],
        "kernels": kernels(),
        "losses": [line["train/loss"] for line in lines if "train/loss" in line],
        "lora": {
            path.name: digest(load_file(path))
            for path in sorted((run / "last").glob("*.safetensors"))
        },
        "scores": {label: row["values"] for label, row in report["scores"].items()},
    }


@pytest.mark.parametrize(
    "variant",
    [pytest.param(each, marks=[pytest.mark.slow] * (each != "unet")) for each in VARIANTS],
)
def test_a_run_keeps_its_bits(variant: str, train_here: TrainHere, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    train_here(*FEW, *VARIANTS[variant], f"hydra.run.dir={tmp_path}")
    found, path = result_of(tmp_path), GOLDEN / f"{variant}.json"
    if os.environ.get("SDLORA_WRITE_GOLDEN") == "1":
        path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    golden = json.loads(path.read_text("utf-8"))
    assert found["losses"] == pytest.approx(golden["losses"], rel=1e-4)  # other sums, other order
    for label, values in golden["scores"].items():
        assert found["scores"][label].keys() == values.keys()
    if (found["torch"], found["kernels"]) == (golden["torch"], golden["kernels"]):
        assert found == golden
