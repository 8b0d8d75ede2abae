"""A run that was stopped, however, ends bit-identical to one that never was (CPU).

All runs here have what resuming can get wrong: accumulation, dropout, flips, dropped captions, an
average, two learning rates, a schedule, noise of three draws, and pictures drawn at other steps
than the whole run's.
"""

import errno
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from sdlora.diffusion.objective import Objective
from tests.smoke.conftest import SMALL, Process, Train, TrainHere, write_pictures

pytestmark = pytest.mark.slow

LAST = 6
"""Optimizer steps of every run."""


@pytest.fixture(scope="module")
def settings(pictures: Path, random_base: Path) -> tuple[str, ...]:
    return (
        *SMALL,
        f"model.path={random_base}",
        f"data.root={pictures}",
        f"trainer.max_steps={LAST}",
        "checkpoint.every_n_steps=2",
        "trainer.accumulate_grad_batches=2",
        "trainer.ema_decay=0.9",
        "lora.dropout=0.1",
        "data.batch_size=2",
        "data.resolution=32",
        "data.flip=true",
        "data.captions.dropout=0.2",
        "scheduler.warmup_steps=2",
        "scheduler.num_cycles=2",
        "objective.noise.offset=0.1",
        "objective.noise.perturbation=0.1",
        "objective.timesteps.name=logit_normal",
    )


@pytest.fixture(scope="module")
def whole(
    settings: tuple[str, ...], train_only: TrainHere, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run that was never stopped; read it, never write in it."""
    folder = tmp_path_factory.mktemp("whole")
    train_only(*settings, f"hydra.run.dir={folder}")
    return folder


def checkpoint(folder: Path, step: int = LAST) -> dict[str, Any]:
    path = folder / "checkpoints" / f"step_{step:07d}" / "trainer.ckpt"
    return torch.load(path, weights_only=True)


def same(a: Any, b: Any) -> bool:
    """Whether nested values are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def assert_same_end(folder: Path, whole: Path) -> None:
    """Weights, optimizer, schedule and average of both runs are equal, and so is each export."""
    resumed, expected = checkpoint(folder), checkpoint(whole)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step"):
        assert same(resumed[part], expected[part]), part
    exported = sorted(path.relative_to(whole) for path in (whole / "lora").rglob("*.safetensors"))
    assert len(exported) == 4
    for path in exported:
        assert same(load_file(folder / path), load_file(whole / path)), path


def assert_metrics_are_whole(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] == LAST


def stop(
    how: str, folder: Path, settings: tuple[str, ...], train_process: Train, *more: str
) -> Process:
    return train_process(
        *settings,
        f"hydra.run.dir={folder}",
        *more,
        script="tests/smoke/stopped_train.py",
        environment={"STOP": how, "PYTHONPATH": "."},  # where train.py is
    )


@pytest.mark.parametrize(
    ("how", "code", "goes_on_from"),
    [
        ("KILL step 5", -9, "step 4"),
        ("KILL ckpt 4", -9, "step 2"),
        ("KILL manifest 4", -9, "step 2"),
        ("KILL ckpt 2", -9, None),
        ("TERM step 3", 143, "step 3"),
        ("INT step 3", 130, "step 3"),
        ("INT twice 3", 130, "step 2"),
    ],
)
def test_stopped_and_resumed_ends_as_if_never_stopped(
    how: str,
    code: int,
    goes_on_from: str | None,
    settings: tuple[str, ...],
    whole: Path,
    train_process: Train,
    train_only: TrainHere,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    stopped = stop(how, tmp_path, settings, train_process, "sampling.every_n_steps=1")
    assert stopped.returncode == code, stopped.stdout + stopped.stderr
    assert not (tmp_path / "lora").exists()
    cut = list(tmp_path.rglob(".writing-*"))
    assert len(cut) == (1 if "KILL" in how and "step" not in how else 0)

    train_only(f"resume={tmp_path}")
    told = capsys.readouterr().out
    if goes_on_from is None:
        assert "no whole checkpoint yet; starting from step 0" in told
    else:
        assert f"continuing from {goes_on_from} of {LAST}" in told
    assert not list(tmp_path.rglob(".writing-*"))
    assert_same_end(tmp_path, whole)
    assert_metrics_are_whole(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_newest_checkpoint_is_passed_over(
    damage: str,
    whole: Path,
    train_only: TrainHere,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "lora")
    (folder / "report.json").unlink()
    newest = folder / "checkpoints" / f"step_{LAST:07d}" / "trainer.ckpt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content[:500] if damage == "cut" else content)

    train_only(f"resume={folder}")
    told = capsys.readouterr().out
    assert f"skipped {newest.parent}: trainer.ckpt is not what was written" in told
    assert "continuing from step 4" in told
    assert_same_end(folder, whole)


def test_a_finished_run_says_so_and_a_longer_one_goes_on(
    whole: Path, train_only: TrainHere, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "lora").rglob("*")}
    train_only(f"resume={folder}", "sampling.guidance_scale=2")
    told = capsys.readouterr().out
    assert f"{folder} is finished: all {LAST} steps are done" in told
    assert "note: sampling.guidance_scale=2: without effect on a run that is finished" in told
    assert f"sdlora evaluate run={folder}" in told
    assert {path: path.stat().st_mtime_ns for path in (folder / "lora").rglob("*")} == before

    train_only(f"resume={folder}", f"trainer.max_steps={LAST + 1}")
    assert f"continuing from step {LAST} of {LAST + 1}" in capsys.readouterr().out
    assert checkpoint(folder, LAST + 1)["global_step"] == LAST + 1


def test_what_cannot_change_is_named(
    whole: Path,
    message_of: Any,
    random_base: Path,
    garbage_base: Path,
    tmp_path: Path,
) -> None:
    begins = f"resume={whole}: cannot continue, since this changed:\n  "
    told = message_of(f"resume={whole}", "lora.r=4", "optim.unet_lr=1e-5")
    assert told.startswith(begins + "lora.r: was 8, now 4\n  optim.unet_lr: was 0.003, now 1e-05\n")
    told = message_of(f"resume={whole}", f"model.path={garbage_base}")
    assert told.startswith(begins + f"model.path: was '{random_base}', now '{garbage_base}'\n")
    told = message_of(f"resume={whole}", f"data.root={write_pictures(tmp_path, 4)}")
    assert told.startswith(begins + "data: its content has changed (SHA-256 ")
    assert told.splitlines()[2:] == [
        "    gone: picture_4.png",
        "Set it back, or start a new run.",
    ]
    with FileLock(whole / ".lock"):
        told = message_of(f"resume={whole}")
    assert told.startswith(f"run_dir={whole}: another process is training in it; wait for it")


def test_a_full_disk_costs_one_checkpoint(
    settings: tuple[str, ...],
    whole: Path,
    train_only: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def full(source: Any, target: Any, real: Any = os.replace) -> None:
        if Path(target).parts[-2:] == ("step_0000004", "trainer.ckpt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    train_only(*settings, f"hydra.run.dir={tmp_path}")
    told = capsys.readouterr().out
    named = "step_0000004/trainer.ckpt: cannot be written (No space left on device); free space on"
    assert "no checkpoint at step 4 (" in told
    assert named in told
    valid = [path.parent.name for path in (tmp_path / "checkpoints").glob("*/manifest.json")]
    assert sorted(valid) == ["step_0000002", "step_0000006"]
    assert not list(tmp_path.rglob(".writing-*"))
    assert_same_end(tmp_path, whole)


def test_nan_stops_the_run_and_is_never_saved(
    settings: tuple[str, ...],
    message_of: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # two an optimizer step: those of step 4 are numbers 6 and 7; -1 is the estimate of the memory
    micro_batches = itertools.count(-1)

    def loss(self: Objective, *given: torch.Tensor, real: Any = Objective.loss) -> torch.Tensor:
        return real(self, *given) * (float("nan") if next(micro_batches) >= 6 else 1)

    monkeypatch.setattr(Objective, "loss", loss)
    told = message_of(*settings, f"hydra.run.dir={tmp_path}")
    assert told.startswith("the loss is nan at step 3 (pictures: picture_")
    assert "lower optim.unet_lr" in told.replace("\n", " ")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_0000002"]
    assert all(torch.isfinite(w).all() for w in checkpoint(tmp_path, 2)["state_dict"].values())
    assert not (tmp_path / "lora").exists()
