"""Every signal, at whatever moment it comes, saves the run and ends it with the shell's code."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.smoke.conftest import SMALL, Process, Train, TrainHere

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has none of these signals"),
]

FILE = "lora/pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def settings(pictures: Path, random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return (
        *SMALL,
        f"model.path={random_base}",
        f"data.root={pictures}",
        "data.resolution=32",
        "data.batch_size=2",
        "checkpoint.every_n_steps=0",
        "trainer.max_steps=4",
        "sampling.every_n_steps=2",
        "trainer.log_every_n_steps=1",
        f"data.cache.dir={tmp_path_factory.mktemp('cache')}",
    )


@pytest.fixture(scope="module")
def whole(
    settings: tuple[str, ...], train_here: TrainHere, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_here(*settings, f"hydra.run.dir={folder}")
    return folder


def files(run: Path) -> set[str]:
    hidden = (".hydra", ".lock", "train.log", "checkpoints")
    found = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    return {name for name in found if not name.startswith(hidden)}


def stopped(where: str, name: str, run: Path, settings: tuple[str, ...], call: Train) -> Process:
    return call(
        *settings,
        f"hydra.run.dir={run}",
        script="tests/smoke/signalled_train.py",
        environment={"STOP": f"{name} {where}", "PYTHONPATH": "."},
    )


MOMENTS = {
    ("scanning", "TERM"): None,
    ("caching", "HUP"): 0,
    ("step", "USR1"): 1,
    ("saving", "USR2"): 4,
    ("drawing", "TERM"): 2,
    ("drawing", "INT"): 2,
    ("export", "TERM"): 4,
    ("page", "HUP"): 4,
}


@pytest.mark.parametrize(("where", "name"), MOMENTS)
def test_a_signal_saves_and_ends_the_run(
    where: str,
    name: str,
    settings: tuple[str, ...],
    whole: Path,
    train_process: Train,
    tmp_path: Path,
) -> None:
    run = tmp_path / "my run"
    ended = stopped(where, name, run, settings, train_process)
    assert ended.returncode == 128 + signal.Signals[f"SIG{name}"], ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    (hint,) = {line.partition(": ")[2] for line in ended.stdout.splitlines() if "resume=" in line}
    saved = MOMENTS[where, name]
    if saved:
        assert f"step {saved}" in ended.stdout
    words = shlex.split(hint[hint.index("sdlora train") :])[2:]
    resumed = train_process(*words)
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = load_file(run / FILE), load_file(whole / FILE)
    assert all(ours[key].equal(theirs[key]) for key in theirs)
    assert files(run) == files(whole)
    ours_at, theirs_at = (sorted(drawn_steps(folder)) for folder in (run, whole))
    assert ours_at == theirs_at


def drawn_steps(run: Path) -> list[str]:
    return [path.name for path in (run / "samples").glob("step_*.png")]


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    """A terminal that closes ends no run that was started with nohup."""
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from sdlora.runtime.signals import ended_by_signals\n"
        "with ended_by_signals():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print('goes on', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "goes on\n"
    assert ended.returncode == 143
