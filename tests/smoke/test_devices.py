"""Two devices as a user has them: two processes on the CPU, which talk by gloo."""

import json
import os
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from sdlora.cli.written_values import quoted
from sdlora.commands.train import preparation
from sdlora.training.callbacks.stopping import StopSignals
from sdlora.training.module import DiffusionModule
from tests.smoke.conftest import SMALL
from tests.smoke.failing_train import Fault
from tests.smoke.forked_train import started

pytestmark = pytest.mark.slow

TrainHere = Callable[..., None]

LAST = 3


@pytest.fixture
def settings(pictures: Path, random_base: Path) -> tuple[str, ...]:
    """Five pictures in batches of 2, 2 and 1: the short ones weigh by their samples.

    Without the text encoder's last layer, the adapter there has no gradient.
    """
    return (
        *SMALL,
        f"model.path={random_base}",
        "model.clip_skip=1",
        f"data.root={pictures}",
        f"trainer.max_steps={LAST}",
        "trainer.log_every_n_steps=1",
        "trainer.ema_decay=0.9",
        "checkpoint.every_n_steps=1",
        "lora.dropout=0.1",
        "data.batch_size=2",
        "data.resolution=32",
        "data.flip=true",
        "data.captions.dropout=0.2",
    )


def checkpoint(run: Path, step: int) -> dict[str, Any]:
    path = run / "checkpoints" / f"step_{step:07d}" / "trainer.ckpt"
    return torch.load(path, weights_only=True)


def steps_saved(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").iterdir())


def values_of(run: Path, name: str) -> dict[int, float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    return {line["step"]: line[name] for line in lines if name in line}


def assert_same_weights(run: Path, other: Path, step: int) -> None:
    """As float32 sums in another order are: each weight to a millionth of the largest."""
    ours, theirs = checkpoint(run, step), checkpoint(other, step)
    for averaged in (False, True):
        weights, expected = (
            state["callbacks"]["ExponentialMovingAverage"]["average"]
            if averaged
            else state["state_dict"]
            for state in (ours, theirs)
        )
        assert weights.keys() == expected.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)


class InSecondCell(StopSignals):
    """The first process gets SIGTERM before the second cell's first step."""

    number = 0

    def __init__(self) -> None:
        super().__init__()
        InSecondCell.number += 1

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, module, batch, batch_idx)
        if InSecondCell.number == 2 and batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_two_devices_train_what_one_does_in_a_sweep_that_is_cut(
    train_here: TrainHere,
    settings: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Two cells, of which the second is stopped, and goes on alone and on one device."""
    sweep, one = tmp_path / "sweep", tmp_path / "one"
    first, second = sweep / "lora.r=2", sweep / "lora.r=4"
    bases, losses = [], []

    def kept_base(*given: Any, real: Any = preparation.kept_base) -> Any:
        bases.append(real(*given))
        return bases[-1]

    def training_step(
        module: DiffusionModule, batch: Any, *more: Any, real: Any = DiffusionModule.training_step
    ) -> Tensor:
        loss: Tensor = real(module, batch, *more)
        losses.append(loss.item() / batch.share)
        return loss

    scored = (*(item for item in settings if item != "evaluation=none"), "evaluation.image=none")
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "kept_base", kept_base)
        patch.setattr("sdlora.commands.train.fit.StopSignals", InSecondCell)
        with pytest.raises(SystemExit) as stop:
            train_here("-m", *scored, "trainer=ddp", "lora.r=2,4", f"hydra.sweep.dir={sweep}")
    assert stop.value.code == 143
    told = capfd.readouterr()
    assert told.out.count("export proved") == 1  # the other process says nothing
    assert told.out.count("stopped at step 2 of 3 and saved") == 1
    assert told.err.count("stopping after this step") == 1

    # each cell in its own folder, no sweep begun by the other processes, nothing left behind
    assert sorted(path for path in sweep.iterdir() if path.is_dir()) == [first, second]
    states = [
        json.loads((cell / "cell.json").read_text("utf-8"))["state"] for cell in (first, second)
    ]
    assert states == ["done", "running"]
    assert bases[0] is bases[1]  # the first process keeps it from cell to cell
    assert set(values_of(first, "base/clip_score")) == {0}
    assert set(values_of(first, "eval/clip_score")) == {LAST}
    assert not distributed.is_initialized()
    told_by_the_first = {"LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    assert not told_by_the_first & set(os.environ)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModule, "training_step", training_step)
        alone = ("trainer.accumulate_grad_batches=2", "lora.r=4", f"hydra.run.dir={one}")
        train_here(*settings, *alone)
    assert (steps_saved(first), steps_saved(second)) == ([1, 2, 3], [1, 2])
    for step in (1, 2):
        assert_same_weights(second, one, step)
        mean = sum(losses[2 * step - 2 : 2 * step]) / 2  # of both devices' batches
        assert values_of(second, "train/loss")[step] == pytest.approx(mean, rel=1e-5)

    resumed = f"resume={quoted(str(second))}"
    train_here(resumed, "trainer.devices=1", "trainer.accumulate_grad_batches=2")
    assert steps_saved(second) == [1, 2, 3]
    assert_same_weights(second, one, LAST)


FAULTS = {2: (1,), 3: (0,), 4: (0, 1)}
"""Step -> the processes that fail in it."""

MOST_S = 60.0
"""Seconds in which both processes end after a fault, on a machine with other work."""


def test_a_fault_in_a_process_loses_no_step(
    settings: tuple[str, ...], train_here: TrainHere, tmp_path: Path
) -> None:
    """One folder: a fault in the second process, in the first, in both, and the printed hints."""
    run, whole, printed = tmp_path / "my run", tmp_path / "whole", tmp_path / "printed.txt"
    note = tmp_path / "note.txt"
    given = (*settings, "trainer=ddp", "trainer.max_steps=4", "checkpoint.every_n_steps=0")
    train_here(*given, f"hydra.run.dir={whole}")
    words = [*given, f"hydra.run.dir={quoted(str(run))}"]
    for step, ranks in FAULTS.items():
        process = started(words, printed, hit=Fault(step, ranks, note))
        process.join()
        told = printed.read_text("utf-8")
        assert process.exitcode == 2, told
        assert time.monotonic() - float(note.read_text("utf-8")) < MOST_S
        assert "Traceback" not in told
        for rank in ranks:
            assert f"the device of process {rank} is lost" in told
        if 0 not in ranks:
            assert "process 1 of this run ended with exit code 2" in told
        assert steps_saved(run)[-1] == step - 1
        assert f"step {step - 1} is saved; continue with: " in told
        (hint,) = {line.partition("continue with: ")[2] for line in told.splitlines()} - {""}
        words = shlex.split(hint)[2:]
    train_here(*words)
    ours, theirs = checkpoint(run, 4), checkpoint(whole, 4)
    for name, weight in theirs["state_dict"].items():
        assert weight.equal(ours["state_dict"][name])
    assert values_of(run, "train/loss") == values_of(whole, "train/loss")
