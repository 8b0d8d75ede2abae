"""Two devices as a user has them: two processes on the CPU, which talk by gloo."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from sdlora.build import keeping
from sdlora.module import DiffusionModule
from tests.smoke.conftest import SMALL, Train

pytestmark = pytest.mark.slow

TrainHere = Callable[..., None]

LAST = 3


@pytest.fixture
def settings(pictures: Path) -> tuple[str, ...]:
    """Five pictures in batches of 2, 2 and 1: the short ones weigh by their samples.

    Without the text encoder's last layer, the adapter there has no gradient.
    """
    return (
        *SMALL,
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


def test_two_devices_train_what_one_does_and_one_goes_on(
    train_here: TrainHere,
    train_process: Train,
    settings: tuple[str, ...],
    random_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step of two devices is one of two batches; SIGTERM to the first ends both at one step."""
    one, two = tmp_path / "one", tmp_path / "two"
    losses: list[float] = []

    def training_step(
        module: DiffusionModule, batch: Any, *more: Any, real: Any = DiffusionModule.training_step
    ) -> Tensor:
        loss: Tensor = real(module, batch, *more)
        losses.append(loss.item() / batch.share)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModule, "training_step", training_step)
        alone = (*settings, f"model.path={random_base}", "trainer.accumulate_grad_batches=2")
        train_here(*alone, f"hydra.run.dir={one}")

    stopped = train_process(
        *(*settings, "trainer=ddp", f"trainer.max_steps={LAST}", f"hydra.run.dir={two}"),
        script="tests/smoke/stopped_train.py",
        environment={"STOP": "TERM twice 1", "PYTHONPATH": "."},
    )
    assert stopped.returncode == 143, stopped.stdout + stopped.stderr
    assert stopped.stdout.count("stopped at step 2 of 3 and saved") == 1
    assert stopped.stderr.count("stopping after this step") == 1
    assert steps_saved(two) == [1, 2]
    for step in (1, 2):
        assert_same_weights(two, one, step)
    shown = values_of(two, "train/loss")
    for step in (1, 2):  # the mean of both devices' batches
        assert shown[step] == pytest.approx(sum(losses[2 * step - 2 : 2 * step]) / 2, rel=1e-5)

    train_here(f"resume={two}", "trainer.devices=1", "trainer.accumulate_grad_batches=2")
    assert steps_saved(two) == [1, 2, 3]
    assert_same_weights(two, one, LAST)
    assert (two / "lora").is_dir()


def test_a_sweep_of_several_devices(
    train_here: TrainHere,
    settings: tuple[str, ...],
    random_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each cell in its own folder, none begun by the other processes; nothing left behind.

    The first process draws and scores while the other waits.
    """
    bases = []

    def base_model(*given: Any, real: Any = keeping.base_model) -> Any:
        bases.append(real(*given))
        return bases[-1]

    monkeypatch.setattr(keeping, "base_model", base_model)
    given = (
        *(item for item in settings if item != "evaluation=none"),
        *("evaluation.image=none", "trainer=ddp", "trainer.max_steps=1", "lora.alpha=${lora.r}"),
        f"model.path={random_base}",
    )
    train_here("-m", *given, "lora.r=2,4", f"hydra.sweep.dir={tmp_path}")
    told_by_the_first = {"LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    assert not told_by_the_first & set(os.environ)
    assert not distributed.is_initialized()

    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "lora.r=2",
        "lora.r=4",
    ]
    for r in (2, 4):
        cell = tmp_path / f"lora.r={r}"
        assert json.loads((cell / "cell.json").read_text("utf-8"))["state"] == "done"
        assert not list(cell.rglob("multirun.yaml"))
        assert set(values_of(cell, "base/clip_score")) == {0}
        assert set(values_of(cell, "eval/clip_score")) == {1}
        weights = checkpoint(cell, 1)["state_dict"]
        assert {w.shape[0] for name, w in weights.items() if "lora_A" in name} == {r}
    assert bases[0] is bases[1]  # the first process keeps it from cell to cell
    told = capfd.readouterr().out
    assert told.count("export proved") == 2
    assert told.replace("\n", "").count(f"sweep {tmp_path}: 2 of 2 cells done") == 1
