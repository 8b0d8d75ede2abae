"""The notebooks: the first is executed with few steps, the commands of the other are composed."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdlora.cli.arguments import prepared_arguments
from sdlora.config.train import TrainConfig
from tests.composed import train_config
from tests.places import REPOSITORY

FOLDER = REPOSITORY / "notebooks"
INSTALL = "pip install -q -c constraints.txt -e ."
FEW = "sampling.num_prompts=2 sampling.num_steps=2 sampling.every_n_steps=0"


def code_cells(name: str) -> list[str]:
    notebook = json.loads((FOLDER / name).read_text("utf-8"))
    assert notebook["nbformat"] == 4
    cells = notebook["cells"]
    assert all(not each["outputs"] for each in cells if each["cell_type"] == "code")
    return ["".join(each["source"]) for each in cells if each["cell_type"] == "code"]


def parts(cell: str) -> Iterator[tuple[bool, str]]:
    """A cell as commands (``!``) and the Python between them, in order."""
    python: list[str] = []
    for line in cell.splitlines():
        if line.startswith("!"):
            yield False, "\n".join(python)
            python = []
            yield True, line[1:]
        else:
            python.append(line)
    yield False, "\n".join(python)


def run_command(line: str, names: dict[str, Any]) -> None:
    """A command of a notebook, with its variables filled in; what is installed is left alone."""
    if line == INSTALL:
        return
    program, *arguments = shlex.split(line.format(**names))
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_first_notebook_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(FOLDER)
    names: dict[str, Any] = {}
    for cell in code_cells("first_run.ipynb"):
        for is_command, text in parts(cell):
            if is_command:
                run_command(text, names)
            else:
                exec(compile(text, "first_run.ipynb", "exec"), names)
        if "STEPS" in names:
            names |= {"STEPS": 2, "MORE": FEW, "RUN": str(tmp_path / "run")}
    monkeypatch.undo()  # the notebook has changed the folder
    assert (tmp_path / "run" / "lora" / "my_lora.safetensors").is_file()
    assert isinstance(names["drawn"], Image.Image)
    told = capsys.readouterr().out
    assert "base {'face_distance': " in told
    assert "LoRA {'face_distance': " in told


def test_the_commands_of_the_other_fit_the_schema() -> None:
    cells = code_cells("photos_on_a_t4.ipynb")
    names: dict[str, Any] = {}
    exec(cells[1], names)
    commands = [line[1:] for cell in cells for line in cell.splitlines() if line.startswith("!")]
    assert INSTALL in commands
    composed = []
    for line in commands:
        program, *given = shlex.split(line.format(**names))
        if program not in ("python", "sdlora") or given[1].startswith("resume="):
            continue
        overrides = [item for item in given[1:] if not item.startswith("hydra.")]
        arguments = prepared_arguments(overrides, TrainConfig)
        config = train_config(*arguments)
        composed.append(config)
    assert [config.check for config in composed] == [True, False, False]
    assert {config.data.root for config in composed} == {names["PHOTOS"]}
    trained = composed[-1]
    assert (trained.trainer.precision, trained.data.resolution) == ("fp16", 512)
    own = trained.model.recommended.batch_size
    assert trained.data.batch_size * trained.trainer.accumulate_grad_batches == own
    for config in composed:
        assert config.model.family == "sd"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.ipynb")))
def test_every_notebook_is_tested_and_its_python_is_whole(name: str) -> None:
    assert name in ("first_run.ipynb", "photos_on_a_t4.ipynb")
    for cell in code_cells(name):
        for is_command, text in parts(cell):
            if not is_command:
                compile(text, name, "exec")
