"""``train.py`` as a user runs it: in a process of its own, and, as that is slow, in this one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import evaluate as evaluation
import train
from sdlora.runtime.program import TRACEBACK
from tests.composed import store_left_as_found
from tests.smoke.browsers import BROWSERS, TIMEOUT_MS
from tests.smoke.forked_train import MOST_S, run_script

SMALL = (
    "sampling.num_steps=2",
    "sampling.num_prompts=2",
    "sampling.every_n_steps=0",
    "evaluation=none",
    "logger=none",
)
"""Overrides that leave little to draw and nothing to score."""

Process = subprocess.CompletedProcess[str]
Train = Callable[..., Process]
TrainHere = Callable[..., None]


@pytest.fixture(scope="session")
def train_process(repository: Path, random_base: Path) -> Train:
    """``train_process(*arguments)`` runs ``python train.py`` on the random base and waits for it.

    ``script`` is another file to run with the same arguments; ``environment`` is added to.
    ``fresh=True`` takes a new interpreter, which needs seconds for imports; without it the process
    is forked from one that has them.
    """

    def call(
        *arguments: str,
        script: str = "train.py",
        environment: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> Process:
        brings_base = any(item.startswith(("resume=", "from_lora=")) for item in arguments)
        words = (*(() if brings_base else (f"model.path={random_base}",)), *arguments)
        given = {
            **{k: v for k, v in os.environ.items() if k != TRACEBACK},
            "OMP_NUM_THREADS": "1",  # so that two can run side by side, with equal sums
            "COLUMNS": "200",
            **(environment or {}),
        }
        if not fresh and os.name != "nt":
            return run_script(script, words, given)
        return subprocess.run(
            [sys.executable, script, *words],
            cwd=repository,
            env=given,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=MOST_S,
            check=False,
        )

    return call


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, where it and playwright are installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox"], timeout=TIMEOUT_MS
        )
        yield started
        started.close()


@pytest.fixture
def message_of(capsys: pytest.CaptureFixture[str], repository: Path) -> Callable[..., str]:
    """``message_of(*arguments)`` gives the one message with which ``train.py`` stops.

    It runs in this process, which saves the start of another one for each error.
    ``evaluate=True`` runs ``evaluate.py`` instead.
    """

    def call(*arguments: str, evaluate: bool = False) -> str:
        with pytest.raises(SystemExit) as stop:
            run_here(repository, arguments, evaluate, traceback=False)
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1] == f"(set {TRACEBACK}=1 for the traceback)"
        message = "\n".join(lines[:-1])
        assert message.startswith("error: ")
        assert message.count("error: ") == 1
        assert "Traceback" not in message
        return message.removeprefix("error: ")

    return call


@pytest.fixture(scope="session")
def train_here(repository: Path) -> TrainHere:
    """``train_here(*arguments)`` runs ``train.py`` in this process; an error is a failure.

    ``evaluate=True`` runs ``evaluate.py`` instead. What is not about the process itself (signals,
    exit codes, environment) runs so: it saves seconds of imports, and warnings are errors in it.
    """

    def call(*arguments: str, evaluate: bool = False) -> None:
        run_here(repository, arguments, evaluate, traceback=True)

    return call


@pytest.fixture(scope="session")
def train_only(train_here: TrainHere) -> TrainHere:
    """``train_here`` without estimate of a step and proof of the export: nearly half of its time.

    For runs of which a test looks at something else; ``train_here`` has both, as users have them.
    """

    def call(*arguments: str, evaluate: bool = False) -> None:
        from sdlora.commands.train import exported_files, preflight

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(preflight, "step_memory", _not_estimated)
            patched.setattr(exported_files, "prove_export", lambda *given: {})
            train_here(*arguments, evaluate=evaluate)

    return call


def _not_estimated(*given: object) -> NoReturn:
    raise RuntimeError("left out of this test")


@pytest.fixture(scope="module")
def whole(
    settings: tuple[str, ...], train_here: TrainHere, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The undisturbed run of a module's fixture ``settings``."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_here(*settings, f"hydra.run.dir={folder}")
    return folder


def run_here(repository: Path, arguments: Sequence[str], evaluate: bool, traceback: bool) -> None:
    """Run ``train.py`` or ``evaluate.py`` in this process, which is left as it was."""
    GlobalHydra.instance().clear()
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    with pytest.MonkeyPatch.context() as patched, store_left_as_found():
        patched.setattr(sys, "argv", ["run.py", *arguments, *quiet])
        patched.setenv("COLUMNS", "200")
        patched.setenv(TRACEBACK, "1" if traceback else "0")
        patched.chdir(repository)
        if not any(item.startswith("sweep=") for item in arguments):
            # Hydra composes all once more to read hydra.mode, which only presets of sweeps set
            patched.setattr(Hydra, "get_mode", lambda *given, **named: None)
        if evaluate:
            evaluation.main()
        else:
            train.main()


@pytest.fixture(scope="session")
def garbage_base(tmp_path_factory: pytest.TempPathFactory, random_base: Path) -> Path:
    """The random base with weights that cannot be read: whoever opens one fails otherwise."""
    folder = tmp_path_factory.mktemp("garbage") / "base"
    for path in random_base.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(random_base)
            target.parent.mkdir(parents=True, exist_ok=True)
            content = b"no weights" if path.suffix == ".safetensors" else path.read_bytes()
            target.write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five captioned pictures of random pixels."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def write_pictures(folder: Path, count: int = 5) -> Path:
    """Write captioned pictures of 40 x 40 random pixels."""
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        pixels = torch.randint(0, 256, (40, 40, 3), generator=generator, dtype=torch.uint8)
        picture = Image.frombytes("RGB", (40, 40), pixels.numpy().tobytes())
        picture.save(folder / f"picture_{index}.png")
        (folder / f"picture_{index}.txt").write_text(f"picture number {index}", "utf-8")
    return folder
