"""Lines of metrics that survive a kill."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sdlora.runs.metrics import (
    METRICS,
    MetricsFile,
    append_metrics,
    forget_metrics_after,
    read_metrics,
)
from sdlora.runtime.progress import Progress


def test_metrics_lines_come_back(tmp_path: Path):
    run = tmp_path / "run"
    assert read_metrics(run) == []
    append_metrics(run, 0, {"loss": torch.tensor(0.5), "text": "Ä"})
    append_metrics(run, 10, {"loss": float("nan"), "lr": math.inf, "clip": None}, {"clip": "off"})
    assert read_metrics(run) == [
        {"step": 0, "loss": 0.5, "text": "Ä"},
        {
            "step": 10,
            "loss": None,
            "lr": None,
            "clip": None,
            "reasons": {"clip": "off", "loss": "the value is nan", "lr": "the value is inf"},
        },
    ]
    for line in (run / METRICS).read_text("utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("kept", range(0, 40, 3))
def test_a_line_cut_by_a_kill_is_passed_over_and_then_replaced(tmp_path: Path, kept):
    path = tmp_path / METRICS
    append_metrics(tmp_path, 1, {"loss": 0.25, "name": "zwölf"})
    whole = path.read_bytes()
    append_metrics(tmp_path, 2, {"loss": 0.125, "name": "zwölf"})
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    append_metrics(tmp_path, 3, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 3]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path):
    path = tmp_path / METRICS
    path.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(tmp_path)


def test_names_the_line_uses_itself_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="'step' is reserved"):
        append_metrics(tmp_path, 1, {"step": 2})


def test_steps_that_will_be_made_again_are_forgotten(tmp_path: Path):
    path = tmp_path / METRICS
    forget_metrics_after(tmp_path, 5)
    assert not path.exists()
    for step in (5, 10, 15):
        append_metrics(tmp_path, step, {"loss": 1.0})
    forget_metrics_after(tmp_path, 10)
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10]


def test_lines_that_the_disk_does_not_take_wait_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    progress = Progress(enabled=False)
    metrics = MetricsFile(tmp_path, progress)
    metrics.append(1, {"a": 1.0})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        metrics.append(2, {"a": 2.0})
    assert "cannot be written (No space left on device)" in progress.failing["metrics.jsonl"]
    metrics.append(3, {"a": 3.0})
    assert read_metrics(tmp_path) == [{"step": step, "a": float(step)} for step in (1, 2, 3)]
    assert progress.failing == {}
