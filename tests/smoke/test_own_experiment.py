"""An experiment file of the user's own, through the real command."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.smoke.conftest import SMALL, TrainHere

MessageOf = Callable[..., str]


@pytest.mark.slow
def test_its_run_is_resumed_without_it(
    train_only: TrainHere,
    pictures: Path,
    random_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("data: {resolution: 32, batch_size: 2}\ntrainer: {max_steps: 1}\n", "utf-8")
    given = (*SMALL, f"model.path={random_base}", f"data.root={pictures}", f"experiment={mine}")
    train_only(*given, f"hydra.run.dir={tmp_path}/run")
    again = (*given, f"resume={tmp_path}/run", "trainer.max_steps=2")
    train_only(*again)
    assert "continuing from step 1 of 2" in capsys.readouterr().out
    mine.unlink()
    train_only(f"resume={tmp_path}/run")
    assert "all 2 steps are done" in capsys.readouterr().out


@pytest.mark.slow
def test_its_keys_without_effect_are_named(
    train_only: TrainHere, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "defaults: [override /scheduler: cosine]\nscheduler: {num_cycles: 3}\nlora: {r: 4}\n",
        "utf-8",
    )
    given = (f"experiment={mine}", "data.prior.root=classes", "check=true")
    train_only(*given, f"hydra.run.dir={tmp_path}/run")
    notes = [line for line in capsys.readouterr().out.splitlines() if "no effect" in line]
    assert [line.partition("=")[0] for line in notes] == [
        "note: scheduler.num_cycles",
        "note: data.prior.root",
    ]


def test_its_faults_are_named(message_of: MessageOf, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    mine = tmp_path / "experiment" / "mine.yaml"
    mine.write_text("optim: {unet_lrr: 1}\n", "utf-8")
    folder = f"hydra.run.dir={tmp_path}/run"
    told = message_of(f"experiment={mine}", folder)
    assert "optim.unet_lrr" in told
    assert "did you mean optim.unet_lr?" in told
    assert str(mine) in told
    told = message_of("experiment=mine", folder, "--config-dir", str(tmp_path))
    assert told.startswith("experiment: the file sets keys below experiment; begin it with # @pac")
    mine.write_text("a: [1", "utf-8")
    assert "a config file cannot be read" in message_of(f"experiment={mine}", folder)
    assert "no/mine.yaml: there is no such file" in message_of("experiment=no/mine.yaml", folder)
