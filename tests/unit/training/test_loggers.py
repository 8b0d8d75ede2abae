"""Curves that cannot be written end no training, and go on when they can."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdlora.runtime.progress import Progress
from sdlora.training.loggers import RunCsv, RunTensorBoard


def points(folder: Path) -> list[int]:
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return [point.step for point in board.Scalars("a")]


def test_after_a_failure_the_next_number_goes_into_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress(enabled=False)
    logger = RunTensorBoard(tmp_path, progress)
    logger.log_metrics({"a": 1.0}, 1)
    logger.save()

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(logger.experiment, "add_scalar", full)
        logger.log_metrics({"a": 1.0}, 2)
    assert "tensorboard" in progress.failing
    shutil.rmtree(tmp_path / "tensorboard")
    logger.log_metrics({"a": 1.0}, 3)
    logger.finalize("success")
    assert progress.failing == {}
    assert points(tmp_path) == [3]


def test_a_csv_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    progress = Progress(enabled=False)
    (tmp_path / "csv").touch()  # where its folder would be
    logger = RunCsv(tmp_path, progress)
    logger.log_metrics({"a": 1.0}, 1)
    logger.save()
    assert "csv" in progress.failing
    logger.finalize("failed")


def test_a_further_start_leaves_the_curves_before_it(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        logger = RunCsv(tmp_path, Progress(enabled=False))
        logger.log_metrics({"a": float(number)}, number)
        logger.finalize("success")
    folders = (tmp_path / "csv" / name for name in ("", "start_2", "start_3"))
    texts = [(folder / "metrics.csv").read_text("utf-8") for folder in folders]
    assert [text.splitlines()[1] for text in texts] == ["1.0,1", "2.0,2", "3.0,3"]
