"""How long a run will take: counted by hand, at a rate that is given."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdlora.commands.train import duration
from sdlora.commands.train.duration import (
    described_time,
    expected_seconds,
    matmul_flop_per_s,
    num_drawn,
)
from sdlora.training.step_cost import StepCost
from tests.unit.commands.train.test_reuse import train_config

COST = StepCost(weights=0, states=0, gradients=0, activations=0, forward_flops=600, num_pictures=6)
"""Of a batch of 6 pictures: 100 each."""


def run_of(base: Path, *overrides: str, guidance_scale: float = 1.0) -> Any:
    """10 prompts and 2 of the class, 4 in a preview; 5 denoising steps."""
    config = train_config(
        base,
        "data.batch_size=6",
        "trainer.max_steps=30",
        "evaluation.every_n_steps=20",
        "sampling.every_n_steps=5",
        "sampling.num_preview=4",
        "sampling.num_steps=5",
        f"sampling.guidance_scale={guidance_scale}",
        *overrides,
    )
    evaluator = SimpleNamespace(
        prompts=["prompt"] * 10,
        prior_prompts=["class"] * 2,
        precision=torch.float32,
        base=None,
    )
    return SimpleNamespace(
        config=config,
        first_step=0,
        module=SimpleNamespace(family=torch.nn.Module()),
        evaluator=evaluator,
        trainer=SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))),
    )


@pytest.fixture(autouse=True)
def rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product computes 4,000 operations a second; a step a quarter of it, drawing a half."""
    monkeypatch.setattr(duration, "matmul_flop_per_s", lambda *_: 4000)
    monkeypatch.setattr(duration, "SHARE", 0.25)
    monkeypatch.setattr(duration, "DRAWING_SHARE", 0.5)


def test_pictures_of_scores_previews_and_base(random_base: Path) -> None:
    run = run_of(random_base)
    # scored after 20 and 30; previews after 5, 10, 15, 25; the base once
    assert num_drawn(run, done=0) == 2 * 12 + 4 * 4 + 12
    assert num_drawn(run, done=20) == 12 + 4 + 12
    run.evaluator.base = object()  # known already, in a sweep
    assert num_drawn(run, done=20) == 12 + 4


def test_seconds_by_hand(random_base: Path) -> None:
    training, drawing = expected_seconds(run_of(random_base), COST)
    assert training == pytest.approx(30 * 2 * 600 / 1000)
    assert drawing == pytest.approx(52 * 5 * 100 / 2000)
    _, guided = expected_seconds(run_of(random_base, guidance_scale=3.0), COST)
    assert guided == pytest.approx(2 * drawing)
    full = ("lora.unet.method=full", "lora.text_encoder.method=frozen")
    run = run_of(random_base, *full, "trainer.accumulate_grad_batches=2")
    run.module.family.gradient_checkpointing = True
    longer, _ = expected_seconds(run, COST)
    assert longer == pytest.approx(2 * 2 * training)  # twice the passes of twice the batches


def test_in_words(random_base: Path) -> None:
    assert described_time(run_of(random_base), COST) == (
        "time: roughly 0:00:36 for the steps and 0:00:13 for drawing pictures"
    )


def test_no_estimate_stops_a_run(random_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> float:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(duration, "matmul_flop_per_s", full)
    said = described_time(run_of(random_base), COST)
    assert said == "time: not known before the first step (no room)"


def test_a_run_that_is_longer_than_asked_takes_no_time(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(random_base)
    run.first_step = 40
    run.evaluator.base = object()
    assert expected_seconds(run, COST) == (0, 0)


def test_the_rate_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.5, 1.0, 1.25, 2.0, 4.0, 4.0, 5.0, 5.0, 6.0])
    monkeypatch.setattr(duration, "perf_counter", lambda: next(clock))
    rate = matmul_flop_per_s(torch.device("cpu"), torch.float32, side=10)
    assert rate == 2 * 10**3 / 0.25
