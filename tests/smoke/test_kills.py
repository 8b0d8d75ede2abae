"""A run or a sweep that is killed at a moment of chance, and resumed, ends as if it had never been.

``SDLORA_KILLS=30 pytest -n 0 -m slow tests/smoke/test_kills.py`` tries more moments.
"""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sdlora.runs.metrics import read_metrics
from tests.smoke.forked_train import started
from tests.smoke.hits import Hit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has neither SIGKILL nor fork"),
]

KILLS = int(os.environ.get("SDLORA_KILLS", "4"))

PLACES = {
    "step": 40,
    "drawing": 5,
    "caching": 1,
    "export": 1,
    "saving": 10,
    "choice": 1,
    "scoring": 5,
    "page": 1,
    "scanning": 1,
}
"""Where a run is hit, and how often it comes there."""

EVERY_FIFTH_IS_A_SWEEP = 5

OWN_OF_A_START = (".hydra", ".lock", "train.log", "tensorboard", "cache")
VOLATILE = ("train/images_per_s", "train/peak_memory_mib")


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


def code_of(folder: Path, given: tuple[str, ...], hit: Hit | None = None) -> int | None:
    """The exit code of a run or sweep in a folder, with a cache of its own."""
    own = {"SDLORA_CACHE": str(folder / "cache")}
    process = started(given, folder.parent / "printed.txt", own, hit)
    process.join()
    return process.exitcode


def run_alone(folder: Path, settings: tuple[str, ...], hit: Hit | None = None) -> int | None:
    """The run as a user starts it, or goes on with it."""
    folder.mkdir(exist_ok=True)
    is_begun = (folder / "config.json").exists()
    given = (f"resume={folder}",) if is_begun else (*settings, f"run_dir={folder}")
    return code_of(folder, given, hit)


def sweep(folder: Path, settings: tuple[str, ...], hit: Hit | None = None) -> int | None:
    """The sweep of two cells, begun or gone on with by the same command."""
    folder.mkdir(exist_ok=True)
    return code_of(folder, ("-m", *settings, "seed=1,2", f"hydra.sweep.dir={folder}"), hit)


@pytest.fixture(scope="module")
def whole(settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody killed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert run_alone(run, settings) == 0
    return run


@pytest.fixture(scope="module")
def whole_sweep(settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep that nobody killed."""
    folder = tmp_path_factory.mktemp("whole_sweep") / "sweep"
    assert sweep(folder, settings) == 0
    return folder


def moments() -> Iterator[tuple[str, Hit]]:
    """What is killed, and when."""
    for number in range(KILLS):
        draw = random.Random(number)
        what = "sweep" if number % EVERY_FIFTH_IS_A_SWEEP == 3 else "run"
        place, most = list(PLACES.items())[number % len(PLACES)]
        call = draw.randint(1, most * (2 if what == "sweep" else 1))
        yield what, Hit("KILL", place, call, delay_s=draw.uniform(0.001, 0.4))


@pytest.mark.parametrize(
    ("what", "hit"),
    [
        pytest.param(what, hit, id=f"{what}-{hit.place}-{hit.call}-{hit.delay_s:.3f}s")
        for what, hit in moments()
    ],
)
def test_what_is_killed_ends_as_if_it_had_never_been_killed(
    what: str,
    hit: Hit,
    settings: tuple[str, ...],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    name, call = {"run": ("whole", run_alone), "sweep": ("whole_sweep", sweep)}[what]
    expected: Path = request.getfixturevalue(name)
    folder = tmp_path / expected.name
    code = call(folder, settings, hit)
    print(f"{what} {hit.place}: {'killed' if code == -signal.SIGKILL else 'ended before'}")
    assert code in (-signal.SIGKILL, 0)
    assert call(folder, settings) == 0, (tmp_path / "printed.txt").read_text("utf-8")
    assert_same(folder, expected)


def files(folder: Path) -> set[str]:
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {path.as_posix() for path in found if not set(path.parts) & set(OWN_OF_A_START)}


def by_step(run: Path) -> list[list[tuple[str, Any]]]:
    """The lines of the run's metrics; the base's may be anywhere among them."""
    lines = sorted(read_metrics(run), key=lambda line: (line["step"], str(list(line)[1])))
    return [[item for item in line.items() if item[0] not in VOLATILE] for line in lines]


def assert_same(folder: Path, expected: Path) -> None:
    """All files are there and no other; weights, pictures and scores have the same bits."""
    names = files(expected)
    assert files(folder) == names
    for name in sorted(names):
        ours, theirs = folder / name, expected / name
        if name.endswith(".safetensors"):
            found, wanted = load_file(ours), load_file(theirs)
            assert found.keys() == wanted.keys()
            assert all(found[key].equal(wanted[key]) for key in wanted), name
        elif name.endswith((".png", "finished.json", "lora/scores.json")):
            assert ours.read_bytes() == theirs.read_bytes(), name
        elif name.endswith("metrics.jsonl"):
            assert by_step(ours.parent) == by_step(theirs.parent), name
