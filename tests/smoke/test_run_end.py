"""The end of a run: finished means that everything is there, and is of these steps."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sdlora.commands.train import results
from sdlora.training.callbacks.drawing import Evaluate
from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow

MessageOf = Callable[..., str]


@pytest.fixture(scope="module")
def settings(pictures: Path, random_base: Path) -> tuple[str, ...]:
    return (
        *SMALL,
        f"model.path={random_base}",
        f"data.root={pictures}",
        "data.resolution=32",
        "data.batch_size=2",
        "checkpoint.every_n_steps=1",
        "trainer.max_steps=2",
    )


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def names(run: Path) -> set[str]:
    hidden = (".hydra", ".lock", "train.log")
    files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    return {name for name in files if not name.startswith(hidden)}


@pytest.mark.parametrize("lost", ["lora/README.md", "report.html", "last", "lora", "finished.json"])
def test_an_end_that_is_not_whole_is_made_again(
    lost: str, run: Path, whole: Path, train_here: TrainHere, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    train_here(f"resume={run}")
    told = capsys.readouterr().out
    assert "step 2 is the last, and its export and report are not whole" in told
    assert names(run) == names(whole)
    for file in (whole / "lora").rglob("*.safetensors"):
        ours, theirs = load_file(run / file.relative_to(whole)), load_file(file)
        assert all(ours[name].equal(theirs[name]) for name in theirs)
    train_here(f"resume={run}")
    assert "is finished: all 2 steps are done" in capsys.readouterr().out


def test_another_name_is_exported(run: Path, train_here: TrainHere) -> None:
    train_here(f"resume={run}", "export.name=other")
    assert (run / "lora" / "other.safetensors").is_file()
    assert not (run / "lora" / "my_lora.safetensors").exists()


def test_a_run_that_is_killed_before_its_card_is_not_finished(
    settings: tuple[str, ...],
    whole: Path,
    train_here: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def killed(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_model_card", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train_here(*settings, f"hydra.run.dir={tmp_path}/run")
    monkeypatch.undo()
    train_here(f"resume={tmp_path}/run")
    assert names(tmp_path / "run") == names(whole)


def test_fewer_steps_than_are_done_are_told_as_they_are(
    run: Path, train_here: TrainHere, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(f"resume={run}", "trainer.max_steps=1")
    assert "is finished: all 2 steps are done and exported" in capsys.readouterr().out


def test_a_run_whose_folder_was_removed_saves_and_does_not_end_well(
    settings: tuple[str, ...],
    message_of: MessageOf,
    train_here: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"

    def remove(self: Any, trainer: Any, module: Any, step: int) -> None:
        if step == 1:
            shutil.rmtree(run)

    with monkeypatch.context() as patched:
        patched.setattr(Evaluate, "on_optimizer_step", remove)
        told = message_of(*settings, f"hydra.run.dir={run}")
    assert told.startswith(f"run_dir={run}: was removed or emptied while the run trained; ")
    assert (run / "lora" / "my_lora.safetensors").is_file()
    train_here(f"resume={run}", "trainer.max_steps=3")
    assert "continuing from step 2 of 3" in capsys.readouterr().out


def test_a_checkpoint_of_another_run_is_passed_over(
    settings: tuple[str, ...],
    run: Path,
    train_here: TrainHere,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other"
    train_here(*settings, "seed=1", "trainer.max_steps=3", f"hydra.run.dir={other}")
    shutil.copytree(other / "checkpoints/step_0000003", run / "checkpoints/step_0000003")
    train_here(f"resume={run}", "trainer.max_steps=3")
    told = capsys.readouterr().out
    assert "step_0000003: is of another run" in told
    assert "continuing from step 2 of 3" in told


def test_a_run_goes_back_to_a_chosen_step(
    run: Path,
    whole: Path,
    train_here: TrainHere,
    message_of: MessageOf,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = message_of(f"resume={run}", "resume_step=7")
    assert told.endswith("choose one of 1, 2")
    assert "give resume=RUN_FOLDER" in message_of("resume_step=1")
    train_here(f"resume={run}", "resume_step=1")
    told = capsys.readouterr().out
    assert f"what came after step 1 is set aside in {run}/after_step_1_1" in told
    assert "continuing from step 1 of 2" in told
    aside = run / "after_step_1_1"
    assert (aside / "checkpoints/step_0000002/trainer.ckpt").is_file()
    assert (aside / "lora/my_lora.safetensors").is_file()
    ours, theirs = (load_file(f / "lora/my_lora.safetensors") for f in (run, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    train_here(f"resume={run}")
    assert "is finished: all 2 steps are done" in capsys.readouterr().out
