"""A run's own record: what each of its starts gave is kept, and nothing else decides a resume."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.smoke.conftest import SMALL, TrainHere, run_here, write_pictures

pytestmark = pytest.mark.slow

MessageOf = Callable[..., str]


@pytest.fixture(scope="module")
def settings(random_base: Path) -> tuple[str, ...]:
    return (
        *SMALL,
        f"model.path={random_base}",
        "data.resolution=32",
        "data.batch_size=2",
        "checkpoint.every_n_steps=1",
    )


@pytest.fixture(scope="module")
def two_steps(
    settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory, pictures: Path
) -> Path:
    """A finished run of two steps, with its data beside it; read it, never write in it."""
    place = tmp_path_factory.mktemp("two_steps")
    shutil.copytree(pictures, place / "photos")
    given = (*settings, "data.root=photos", "trainer.max_steps=2", "hydra.run.dir=run")
    run_here(place, given, evaluate=False, traceback=True)
    return place


@pytest.fixture
def run(two_steps: Path, tmp_path: Path) -> Path:
    shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def content(run: Path) -> dict[Path, bytes]:
    """Everything in the folder but what Hydra writes before any config is read."""
    files = [path for path in run.rglob("*") if path.is_file() and ".hydra" not in path.parts]
    return {path: path.read_bytes() for path in files if path.name not in ("train.log", ".lock")}


def test_what_is_given_at_a_resume_is_kept(
    run: Path, train_only: TrainHere, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = (run.parent / "photos").rename(run.parent / "moved photos")
    shutil.rmtree(run / ".hydra")
    train_only(f"resume={run}", "trainer.max_steps=3", f"data.root='{moved}'")
    assert "continuing from step 2 of 3" in capsys.readouterr().out
    train_only(f"resume={run}")
    assert "is finished: all 3 steps are done" in capsys.readouterr().out
    record = json.loads((run / "config.json").read_text("utf-8"))
    assert record["config"]["trainer"]["max_steps"] == 3
    assert record["config"]["data"]["root"] == str(moved)
    assert record["given"][0][-1] == "trainer.max_steps=2"
    assert "trainer.max_steps=3" in record["given"][1]
    page = (run / "report.html").read_text("utf-8")
    assert "trainer.max_steps=3" in page


def test_a_refused_start_leaves_the_run_as_it_was(
    run: Path,
    settings: tuple[str, ...],
    pictures: Path,
    message_of: MessageOf,
    train_only: TrainHere,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = content(run)
    other = (*settings, f"data.root={pictures}", f"hydra.run.dir={run}", "lora.r=2")
    with FileLock(run / ".lock"):
        assert "another process is training in it" in message_of(*other)
    assert "holds a run already; continue it with resume=" in message_of(*other)
    assert "whose data sheet check=true would replace" in message_of(*other, "check=true")
    assert "check=true: only checks" in message_of(f"resume={run}", "check=true")
    told = message_of(f"resume={run}", "lora.r=2", "trainer.max_steps=9")
    assert "lora.r: was 8, now 2" in told
    assert "starts a new run" in message_of(f"resume={run}", "from_lora=a.safetensors")
    assert content(run) == before
    train_only(f"resume={run}", f"data.root={pictures}", "trainer.max_steps=3")
    assert "continuing from step 2 of 3" in capsys.readouterr().out


def test_the_folder_of_a_stranger_runs_no_code(
    run: Path, pictures: Path, train_only: TrainHere, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    code = f"+hydra.callbacks.x={{_target_: pathlib.Path.touch, self: {tmp_path}/ran}}"
    overrides = [code, "hydra.job.env_set.STRANGER=1", "lora.r=${oc.env:TOKEN}"]
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides), "utf-8")
    record = json.loads((run / "config.json").read_text("utf-8"))
    record["given"] = [overrides]
    record["config"]["sampling"]["negative_prompt"] = "${oc.env:TOKEN}"
    (run / "config.json").write_text(json.dumps(record), "utf-8")
    train_only(f"resume={run}", f"data.root={pictures}", "trainer.max_steps=3")
    assert not (tmp_path / "ran").exists()
    written = json.loads((run / "config.json").read_text("utf-8"))
    assert written["config"]["sampling"]["negative_prompt"] == "${oc.env:TOKEN}"
    texts = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    assert not any(b"secret" in text for text in texts)


def test_a_run_goes_on_from_another_working_folder(
    run: Path, two_steps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    given = (f"resume={run}", "trainer.max_steps=3")
    run_here(elsewhere, given, evaluate=False, traceback=True)
    assert "continuing from step 2 of 3" in capsys.readouterr().out
    record = json.loads((run / "config.json").read_text("utf-8"))
    assert record["config"]["data"]["root"] == (two_steps / "photos").as_posix()


def test_a_rate_that_more_steps_change_is_said(
    settings: tuple[str, ...],
    pictures: Path,
    train_only: TrainHere,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A line from 0.003 to 0 in two steps, and in four: at step 2 it is 0, and 0.0015."""
    line = ("scheduler=linear", "scheduler.warmup_steps=0", "optim.unet_lr=3e-3")
    given = (*settings, *line, f"data.root={pictures}", f"run_dir={tmp_path}/run")
    train_only(*given, "trainer.max_steps=2", "lora.text_encoder.method=frozen")
    assert "learning-rate schedule" not in capsys.readouterr().out
    train_only(f"resume={tmp_path}/run", "trainer.max_steps=4")
    told = (
        "note: 4 steps stretch the learning-rate schedule: the rate of unet goes from 0 to 0.0015;"
    )
    assert told in capsys.readouterr().out


def test_a_command_that_is_repeated_whole_goes_on(
    run: Path,
    settings: tuple[str, ...],
    train_only: TrainHere,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = run.parent / "photos"
    train_only(*settings, f"data.root={photos}", "trainer.max_steps=3", f"resume={run}")
    assert "continuing from step 2 of 3" in capsys.readouterr().out


def test_a_start_that_ended_before_its_data_were_read_can_be_resumed(
    settings: tuple[str, ...],
    message_of: MessageOf,
    train_only: TrainHere,
    tmp_path: Path,
) -> None:
    empty = tmp_path / "photos"
    empty.mkdir()
    given = (*settings, f"data.root={empty}", "trainer.max_steps=1", f"hydra.run.dir={tmp_path}/r")
    assert "no usable picture" in message_of(*given)
    write_pictures(empty)
    train_only(f"resume={tmp_path}/r")
    assert (tmp_path / "r" / "lora").is_dir()
