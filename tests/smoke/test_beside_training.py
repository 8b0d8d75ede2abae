"""A run dies of nothing but its training, and says what is safe where it cannot go on."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sdlora.commands.train import live_page, results
from sdlora.evaluation.evaluator import Evaluator
from sdlora.training.callbacks import drawing
from sdlora.training.module import DiffusionModule, TrainingError
from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow

MessageOf = Callable[..., str]
FILE = "lora/pytorch_lora_weights.safetensors"


def full(*given: Any, **named: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def settings(pictures: Path, random_base: Path) -> tuple[str, ...]:
    return (
        *SMALL,
        f"model.path={random_base}",
        f"data.root={pictures}",
        "data.resolution=32",
        "data.batch_size=2",
        "trainer.accumulate_grad_batches=2",
        "trainer.log_every_n_steps=1",
        "lora.dropout=0.1",
        "checkpoint.every_n_steps=0",
        "trainer.max_steps=3",
        "logger=[tensorboard,csv]",
        "sampling.every_n_steps=1",
    )


def assert_same_lora(run: Path, whole: Path) -> None:
    ours, theirs = load_file(run / FILE), load_file(whole / FILE)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)


BESIDE = {
    "drawing": (Evaluator, "draw", "pictures and scores"),
    "pictures": (drawing, "write_samples", "samples/"),
    "page": (live_page, "write_html_report", "report.html"),
    "card": (results, "write_model_card", "model card"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_fails_beside_the_training_ends_no_training(
    name: str,
    settings: tuple[str, ...],
    whole: Path,
    message_of: MessageOf,
    train_only: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    owner, function, what = BESIDE[name]
    with monkeypatch.context() as patched:
        patched.setattr(owner, function, full)
        told = message_of(*settings, f"hydra.run.dir={tmp_path}")
    assert told.startswith(f"run_dir={tmp_path}: the LoRA is exported, but not everything could")
    assert f"\n  {what}: OSError: [Errno 28] No space left on device" in told
    assert_same_lora(tmp_path, whole)
    train_only(f"resume={tmp_path}")
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "lora" / "README.md").is_file()
    assert_same_lora(tmp_path, whole)


def test_curves_and_pictures_that_vanish_are_made_again(
    settings: tuple[str, ...], whole: Path, train_only: TrainHere, monkeypatch: Any, tmp_path: Path
) -> None:
    def vanish(self: Any, *given: Any, real: Any = drawing.Evaluate.on_optimizer_step) -> None:
        for name in ("tensorboard", "csv", "samples"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        real(self, *given)

    monkeypatch.setattr(drawing.Evaluate, "on_optimizer_step", vanish)
    train_only(*settings, f"hydra.run.dir={tmp_path}")
    assert_same_lora(tmp_path, whole)


def test_an_error_in_training_saves_the_step_before_and_tells_how_to_go_on(
    settings: tuple[str, ...],
    whole: Path,
    message_of: MessageOf,
    train_only: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "my run"
    calls: list[int] = []

    def step(self: Any, *given: Any, real: Any = DiffusionModule.training_step) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("the device is gone")
        return real(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(DiffusionModule, "training_step", step)
        patched.setattr("builtins.print", lambda *given, **named: None)
        with pytest.raises(RuntimeError, match="the device is gone"):
            train_only(*settings, f"hydra.run.dir='{run}'")
    told = capsys.readouterr().out
    saved = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len(saved) == 1
    step_number = int(saved[0].removeprefix("step_"))
    assert 1 <= step_number <= 2
    hint = f"sdlora train 'resume={run}'"
    assert f"step {step_number} is saved; continue with: {hint}" in told
    train_only(f"resume='{run}'")
    assert_same_lora(run, whole)


def test_a_disk_that_is_full_at_the_export_is_named(
    settings: tuple[str, ...],
    whole: Path,
    message_of: MessageOf,
    train_only: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def replace(source: Any, target: Any, real: Any = os.replace) -> None:
        if "adapter_model" in str(target) and ".exporting-last" in str(target):
            full()
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        told = message_of(*settings, f"hydra.run.dir={tmp_path}")
    assert told == (
        f"{tmp_path}/last: cannot be written (No space left on device); free space on that disk, "
        "or choose a folder on another"
    )
    train_only(f"resume={tmp_path}")
    assert_same_lora(tmp_path, whole)


def test_memory_that_runs_out_is_resumed_as_it_says(
    settings: tuple[str, ...],
    message_of: MessageOf,
    train_only: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def step(self: Any, *given: Any, real: Any = DiffusionModule.training_step) -> Any:
        if self.global_step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(DiffusionModule, "training_step", step)
        told = message_of(*settings, f"hydra.run.dir={tmp_path}")
    assert "out of memory at step 2; add trainer.gradient_checkpointing=true or " in told
    train_only(f"resume={tmp_path}", "trainer.gradient_checkpointing=true")
    assert "continuing from step 2 of 3" in capsys.readouterr().out


def test_a_loss_that_is_no_number_starts_a_new_run_from_the_last_weights(
    settings: tuple[str, ...],
    train_only: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def step(self: Any, *given: Any, real: Any = DiffusionModule.training_step) -> Any:
        if self.global_step == 2:
            raise TrainingError("the loss is nan")
        return real(self, *given)

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(DiffusionModule, "training_step", step)
        with pytest.raises(TrainingError):
            train_only(*settings, "checkpoint.every_n_steps=1", f"hydra.run.dir={run}")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "is saved" in line]
    remedy = line.rpartition(" ")[2]
    assert line.startswith(f"{run}: step 2 is saved; a new run starts from its weights with lora.")
    train_only(*settings, remedy, f"hydra.run.dir={tmp_path}/new")
