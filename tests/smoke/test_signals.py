"""Every signal, at whatever moment it comes, saves the run and ends it with the shell's code.

``SDLORA_SIGNALS=10 pytest -n 0 -m slow tests/smoke/test_signals.py`` tries each at ten moments of
chance on the embedded base, and prints the seconds that the run needs to end (``-rP`` shows them).
"""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sdlora.runs.checkpoints import newest_valid, step_of
from tests.smoke.conftest import SMALL, Train
from tests.smoke.forked_train import started
from tests.smoke.hits import Hit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has none of these signals"),
]

FILE = "lora/pytorch_lora_weights.safetensors"

SIGNALS = int(os.environ.get("SDLORA_SIGNALS", "1"))
MOST_S = 15.0
"""Seconds in which a run on the embedded base saves and ends."""


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


def files(run: Path) -> set[str]:
    hidden = (".hydra", ".lock", "train.log", "checkpoints")
    found = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    return {name for name in found if not name.startswith(hidden)}


def ended(words: Sequence[str], folder: Path, hit: Hit | None = None) -> tuple[int | None, str]:
    """The exit code of ``train.py``, and what it printed."""
    printed = folder / "printed.txt"
    process = started(words, printed, hit=hit)
    process.join()
    return process.exitcode, printed.read_text("utf-8")


CALLS = {"drawing": 2}  # the base's pictures come first
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
    where: str, name: str, settings: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    run, hit = tmp_path / "my run", Hit(name, where, CALLS.get(where, 1))
    code, told = ended((*settings, f"hydra.run.dir='{run}'"), tmp_path, hit)
    assert code == 128 + hit.number, told
    assert "Traceback" not in told
    (hint,) = {line.partition(": ")[2] for line in told.splitlines() if "resume=" in line}
    saved = MOMENTS[where, name]
    if saved:
        assert f"step {saved}" in told
    words = shlex.split(hint[hint.index("sdlora train") :])[2:]
    code, told = ended(words, tmp_path)
    assert code == 0, told
    ours, theirs = load_file(run / FILE), load_file(whole / FILE)
    assert all(ours[key].equal(theirs[key]) for key in theirs)
    assert files(run) == files(whole)
    ours_at, theirs_at = (sorted(drawn_steps(folder)) for folder in (run, whole))
    assert ours_at == theirs_at


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_a_process_of_its_own_ends_with_the_code_of_the_shell(
    name: str, settings: tuple[str, ...], train_process: Train, tmp_path: Path
) -> None:
    stopped = train_process(
        *settings,
        f"hydra.run.dir={tmp_path}",
        script="tests/smoke/signalled_train.py",
        environment={"STOP": f"{name} drawing 2", "PYTHONPATH": "."},
        fresh=True,
    )
    assert stopped.returncode == 128 + signal.Signals[f"SIG{name}"], stopped.stderr
    assert "stopped at step 2 of 4 and saved" in stopped.stdout
    assert "Traceback" not in stopped.stderr


def drawn_steps(run: Path) -> list[str]:
    return [path.name for path in (run / "samples").glob("step_*.png")]


PLACES = {
    "step": 12,
    "drawing": 4,
    "caching": 1,
    "export": 1,
    "scoring": 4,
    "saving": 4,
    "choice": 1,
    "page": 1,
    "scanning": 1,
}
"""Where a longer run is hit, and how often it comes there."""


def moments() -> Iterator[Hit]:
    """Each signal at moments of chance."""
    for order, name in enumerate(("TERM", "INT", "HUP", "USR1", "USR2")):
        for number in range(SIGNALS):
            draw = random.Random(f"{name} {number}")
            place, most = list(PLACES.items())[(number + order) % len(PLACES)]
            yield Hit(name, place, draw.randint(1, most), draw.uniform(0.001, 1.0))


@pytest.mark.parametrize(
    "hit",
    [
        pytest.param(hit, id=f"{hit.name}-{hit.place}-{hit.call}-{hit.delay_s:.3f}s")
        for hit in moments()
    ],
)
def test_a_signal_of_chance_ends_the_run_in_time(hit: Hit, tmp_path: Path) -> None:
    run, note = tmp_path / "run", tmp_path / "hit.txt"
    given = (
        *("trainer.max_steps=12", "checkpoint.every_n_steps=5", "sampling.every_n_steps=4"),
        *("sampling.num_prompts=2", "sampling.num_steps=10", "evaluation.every_n_steps=6"),
    )
    code, told = ended((*given, f"run_dir={run}"), tmp_path, replace(hit, note=note))
    over = time.monotonic()
    if not note.exists():
        pytest.skip("the run ended before")
    seconds = over - float(note.read_text("utf-8"))
    print(f"{hit.name} {hit.place}: code {code}, {seconds:.2f} s")
    assert code in (128 + hit.number, 0), told
    assert seconds <= MOST_S
    assert "Traceback" not in told
    checkpoint, damaged = newest_valid(run / "checkpoints")
    assert not damaged
    if code == 0:  # the last line was printed already
        assert (run / "finished.json").exists()
    elif "stopped at step" in told or checkpoint is not None:
        assert checkpoint is not None
        assert f"step {step_of(checkpoint)} " in told.replace("\n", " ")
        assert f"resume={run}" in told.replace("\n", "")


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
