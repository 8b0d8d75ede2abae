"""``logger=wandb``: its files in the run folder, nothing sent; a clear word where it is missing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.smoke.conftest import SMALL, Train

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(random_base: Path, pictures: Path, tmp_path: Path) -> tuple[str, ...]:
    return (
        *(item for item in SMALL if item != "logger=none"),
        *("logger=wandb", f"model.path={random_base}", f"data.root={pictures}"),
        *("data.resolution=32", "data.batch_size=2", "trainer.max_steps=2"),
        *("trainer.log_every_n_steps=1", "sampling.every_n_steps=1", f"run_dir={tmp_path}/run"),
    )


def test_what_a_run_logs_lies_in_its_folder(
    settings: tuple[str, ...], train_process: Train, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    ended = train_process(*settings, fresh=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "warning" not in (ended.stdout + ended.stderr).lower()
    again = train_process(f"resume={tmp_path}/run", "trainer.max_steps=3", fresh=True)
    assert again.returncode == 0, again.stdout + again.stderr
    first, second = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    for start in (first, second):
        (written,) = start.glob("*.wandb")
        content = written.read_bytes()
        assert b"train/loss" in content
        assert list((start / "files" / "media").rglob("samples_*.png"))
    assert b"text_encoder_lr" in content


def test_what_fails_in_it_ends_no_training(
    settings: tuple[str, ...], train_process: Train, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    ended = train_process(*settings, environment={"WANDB_MODE": "sideways"}, fresh=True)
    assert ended.returncode == 2
    assert ended.stdout.count("warning: wandb: ") == 1
    assert "the LoRA is exported, but not everything could be made:\n  wandb: " in ended.stderr
    assert (tmp_path / "run" / "lora" / "my_lora.safetensors").is_file()


def test_a_missing_package_is_said_before_a_weight_is_read(
    settings: tuple[str, ...],
    garbage_base: Path,
    message_of: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("sdlora.training.loggers.find_spec", lambda name: None)
    told = message_of(*settings, f"model.path={garbage_base}")
    remedy = 'pip install "sdlora[wandb]"'
    assert told == f"logger.names=wandb: needs a package that is not installed; {remedy}"
    assert not (tmp_path / "run" / "config.json").exists()
