"""A run that is killed at a moment of chance, and resumed, ends as if it had never been.

``SDLORA_KILLS=30 pytest -n 0 -m slow tests/smoke/test_kills.py`` tries more moments.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sdlora.runs.metrics import read_metrics
from tests.smoke.conftest import Train

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SDLORA_KILLS", "2"))
RESULTS = ("lora", "last", "samples", "report.html", "report.json", "finished.json")


@pytest.fixture(scope="module")
def settings(random_base: Path, pictures: Path) -> tuple[str, ...]:
    return (
        f"model.path={random_base}",
        f"data.root={pictures}",
        "data.resolution=32",
        "data.batch_size=2",
        "trainer.max_steps=40",
        "trainer.log_every_n_steps=5",
        "checkpoint.every_n_steps=4",
        "lora.dropout=0.1",
        "sampling.num_steps=2",
        "sampling.num_prompts=2",
        "sampling.every_n_steps=10",
        "evaluation.every_n_steps=10",
        "evaluation.face.name=none",
        "evaluation.kid=false",
        "evaluation.select=clip_score",
    )


def started(run: Path, settings: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    """The run as a user starts it, or goes on with it."""
    given = (f"resume={run}",) if (run / "config.json").exists() else (*settings, f"run_dir={run}")
    cache = {"SDLORA_CACHE": str(run.parent / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "train.py", *given],
        env={**os.environ, **cache},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def whole(
    settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float]:
    """The run that nobody killed, and its seconds."""
    run = tmp_path_factory.mktemp("whole") / "run"
    began = time.perf_counter()
    assert started(run, settings).wait() == 0
    return run, time.perf_counter() - began


def results(run: Path) -> set[str]:
    found = [path for name in RESULTS for path in [run / name, *(run / name).rglob("*")]]
    return {path.relative_to(run).as_posix() for path in found if path.is_file()}


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_ends_as_if_it_had_never_been_killed(
    number: int,
    settings: tuple[str, ...],
    whole: tuple[Path, float],
    train_process: Train,
    tmp_path: Path,
) -> None:
    run, (expected, seconds) = tmp_path / "run", whole
    process = started(run, settings)
    moment = seconds * random.Random(number).uniform(0.3, 1.0)  # before, Python is starting
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert started(run, settings).wait() == 0, f"killed after {moment:.1f} of {seconds:.1f} s"
    assert results(run) == results(expected)
    for path in sorted(results(expected)):
        if path.endswith(".safetensors"):
            ours, theirs = load_file(run / path), load_file(expected / path)
            assert all(ours[key].equal(theirs[key]) for key in theirs), path
        elif path.endswith(".png"):
            assert (run / path).read_bytes() == (expected / path).read_bytes(), path
    scored = [
        [line for line in read_metrics(folder) if any(key.startswith("eval/") for key in line)]
        for folder in (run, expected)
    ]
    assert scored[0] == scored[1]
