"""Sweeps as a user runs them: cells in one process, cut and gone on with, failed and refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from safetensors.torch import load_file

from sdlora.commands.train import preparation
from sdlora.runs.run_folder import RunFolderError
from sdlora.training.callbacks.stopping import StopSignals
from tests.smoke.conftest import SMALL, Train, TrainHere

pytestmark = pytest.mark.slow

STEPS = 3


@pytest.fixture
def settings(pictures: Path, random_base: Path) -> tuple[str, ...]:
    return (
        *SMALL,
        f"model.path={random_base}",
        f"data.root={pictures}",
        "data.resolution=32",
        "data.batch_size=2",
        f"trainer.max_steps={STEPS}",
        "trainer.accumulate_grad_batches=2",
        "checkpoint.every_n_steps=1",
        "lora.dropout=0.1",
    )


def trained(run: Path) -> dict[str, torch.Tensor]:
    """The weights at the end."""
    path = run / "checkpoints" / f"step_{STEPS:07d}" / "trainer.ckpt"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def assert_same_weights(run: Path, other: Path) -> None:
    ours, theirs = trained(run), trained(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    files = [folder / "lora" / "pytorch_lora_weights.safetensors" for folder in (run, other)]
    exported, expected = map(load_file, files)
    assert all(torch.equal(exported[name], expected[name]) for name in expected)


def state_of(cell: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((cell / "cell.json").read_text("utf-8"))
    return state


def test_a_cell_equals_the_same_run_alone(
    train_only: TrainHere,
    settings: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cell before leaves no trace, and how many pictures are drawn at once does not matter."""
    bases = []

    def kept_base(*given: Any, real: Any = preparation.kept_base) -> Any:
        bases.append(real(*given))
        return bases[-1]

    monkeypatch.setattr(preparation, "kept_base", kept_base)
    sweep, alone = tmp_path / "sweep", tmp_path / "alone"
    given = (
        *settings,
        "objective.prediction_type=v_prediction",
        "objective.zero_terminal_snr=true",
        "trainer.gradient_checkpointing=true",
    )
    train_only("-m", *given, "lora.init=pissa,default", f"hydra.sweep.dir={sweep}")
    train_only(*given, "sampling.batch_size=1", f"hydra.run.dir={alone}")
    first, second, third = bases
    assert first is second  # one load for both cells
    assert third is not first
    assert_same_weights(sweep / "lora.init=default", alone)
    for init in ("pissa", "default"):
        cell = sweep / f"lora.init={init}"
        state, file = state_of(cell), cell / "lora" / "pytorch_lora_weights.safetensors"
        assert (state["state"], state["reason"]) == ("done", None)
        assert state["trainable_parameters"] == sum(w.numel() for w in trained(cell).values())
        assert state["file_bytes"] == file.stat().st_size
    listed = yaml.safe_load((sweep / "sweep.yaml").read_text("utf-8"))
    assert listed["swept"] == {"lora.init": ["pissa", "default"]}


def test_a_killed_sweep_goes_on_and_ends_as_if_it_never_was(
    train_only: TrainHere,
    train_process: Train,
    settings: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = tmp_path / "sweep"
    command = ("-m", *settings, "seed=1,2,3", f"hydra.sweep.dir={sweep}")
    third = {"STOP": "KILL step 2 3", "PYTHONPATH": "."}
    killed = train_process(*command, script="tests/smoke/stopped_train.py", environment=third)
    assert killed.returncode == -9, killed.stdout + killed.stderr
    states = [state_of(sweep / f"seed={seed}")["state"] for seed in (1, 2, 3)]
    assert states == ["done", "done", "running"]

    def written() -> dict[Path, int]:
        """When each file of the finished cells was last written."""
        files = [path for seed in (1, 2) for path in (sweep / f"seed={seed}").rglob("*")]
        return {path: path.stat().st_mtime_ns for path in files if path.is_file()}

    before = written()
    train_only(*command)
    assert written() == before
    told = capsys.readouterr().out
    assert f"continuing from step 1 of {STEPS}" in told
    assert f"sweep {sweep}: 3 of 3 cells done" in told.replace("\n", "")
    train_only(*settings, "seed=3", f"hydra.run.dir={tmp_path}/alone")
    assert_same_weights(sweep / "seed=3", tmp_path / "alone")


def test_a_signal_ends_the_sweep_and_the_same_command_goes_on(
    train_only: TrainHere,
    settings: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ("-m", *settings, "seed=1,2", f"hydra.sweep.dir={tmp_path}")

    for step, number in enumerate((signal.SIGTERM, signal.SIGINT), start=1):

        class Stopped(StopSignals):
            def on_train_batch_start(self, *given: Any, number: int = number) -> None:
                is_first = self.received is None  # a second SIGINT would stop at once
                super().on_train_batch_start(*given)
                if is_first:
                    os.kill(os.getpid(), number)

        with monkeypatch.context() as patched:
            patched.setattr("sdlora.commands.train.fit.StopSignals", Stopped)
            with pytest.raises(SystemExit) as stop:
                train_only(*command)
        assert stop.value.code == 128 + number
        assert f"stopped at step {step} of {STEPS} and saved" in capsys.readouterr().out
        assert state_of(tmp_path / "seed=1")["state"] == "running"
        assert not (tmp_path / "seed=2").exists()
    train_only(*command)
    assert f"continuing from step 2 of {STEPS}" in capsys.readouterr().out
    assert [state_of(tmp_path / f"seed={seed}")["state"] for seed in (1, 2)] == ["done", "done"]


def test_a_cell_that_another_process_trains_is_left_to_it(
    train_only: TrainHere, settings: tuple[str, ...], tmp_path: Path
) -> None:
    """As where a killed sweep's jobs live on, and the same command is given again."""
    cell = tmp_path / "run"  # nothing is swept
    program = (
        "import sys; from pathlib import Path; from sdlora.runs.run_folder import locked\n"
        f"with locked(Path({str(cell)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        (cell / "cell.json").write_text('{"state": "running", "started": "then"}', "utf-8")
        with pytest.raises(RunFolderError, match=rf"another .* \(process {other.pid} on .*, since"):
            train_only("-m", *settings, "seed=1", f"hydra.sweep.dir={tmp_path}")
        other.kill()
    assert state_of(cell) == {"state": "running", "started": "then"}


def test_a_cell_that_fails_is_marked_and_tried_again(
    train_only: TrainHere, settings: tuple[str, ...], tmp_path: Path, pictures: Path
) -> None:
    """It fails for want of pictures; once they are there, the same command trains it alone."""
    photos, sweep = tmp_path / "photos", tmp_path / "sweep"
    photos.mkdir()
    given = [item for item in settings if not item.startswith("data.root=")]
    command = ("-m", *given, f"data.root={photos},{pictures}", f"hydra.sweep.dir={sweep}")
    with pytest.raises(ValueError, match="photos"):
        train_only(*command)
    listed = yaml.safe_load((sweep / "sweep.yaml").read_text("utf-8"))["cells"]
    bad, good = (sweep / cell["folder"] for cell in listed)
    assert state_of(bad)["state"] == "failed"
    assert str(photos) in state_of(bad)["reason"]
    before = state_of(good)
    assert before["state"] == "done"
    shutil.copytree(pictures, photos, dirs_exist_ok=True)
    train_only(*command)
    assert state_of(bad)["state"] == "done"
    assert state_of(good) == before
    assert_same_weights(bad, good)  # they differ in where equal pictures lie


def test_too_many_runs_ask_for_a_yes(message_of: Callable[..., str], tmp_path: Path) -> None:
    """The preset has 4 ranks at 2 rates; what is given goes before it, key by key."""
    grid = ("sweep=rank_lr", "seed=range(0,7)", "lora.r=1,2,3", "optim.unet_lr=1")
    told = message_of(*grid, "sweep.max_jobs=20", f"hydra.sweep.dir={tmp_path}/s")
    remedy = "21 runs are too many; set sweep.max_jobs=21 to start them all"
    assert told == f"sweep.max_jobs=20: {remedy}"
    assert not (tmp_path / "s").exists()


def test_what_cannot_be_a_sweep_is_told(message_of: Callable[..., str], tmp_path: Path) -> None:
    folder = f"hydra.sweep.dir={tmp_path}/s"
    told = message_of("-m", "seed=1,2", "sweep.name=a/b", folder)
    assert told.startswith("sweep.name=a/b: is a folder name: 1 to 100 letters, digits or ")
    told = message_of("-m", "optim.unet_lr=interval(0,1)", folder)
    assert told == "optim.unet_lr=interval(0,1): a grid takes lists, ranges and globs only"
    told = message_of("-m", "lora=attention,atention", folder)
    assert told.startswith("lora=atention: unknown; did you mean attention? choices: ")
    told = message_of("-m", "seed=range(5,0)", folder)
    assert told == "seed=range(5,0): has no values; give it at least one"
    told = message_of("-m", "seed=range(0,1000000)", folder)  # each is not parsed first
    assert told.startswith("sweep.max_jobs=50: 1000000 runs are too many; set ")
    told = message_of("seed=1,2")
    assert told == (
        "seed=1,2: holds several values; add -m to run once with each, write seed=[1,2] for a "
        "list, or \"seed='1,2'\" for one text"
    )
    told = message_of("sweep=seeds", f"run_dir={tmp_path}")
    assert told.startswith(f"hydra.run.dir={tmp_path}: names the folder of one run; a sweep's is ")
    (tmp_path / "file").touch()
    told = message_of("-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}/file")
    assert told.startswith(f"sweep.name={tmp_path}/file: cannot be written to (File exists); ")
    with FileLock(tmp_path / ".lock"):
        told = message_of("-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}")
    assert told.startswith(f"sweep.name={tmp_path}: another process is training in it; wait for")
