"""The wheel, installed where there is no checkout: what it holds, its commands from any folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from sdlora import __version__
from sdlora.adapters.formats import read_metadata
from tests.places import REPOSITORY

PLACES = {
    "sdlora": "sdlora",
    "hydra_plugins": "hydra_plugins",
    "conf": "sdlora/conf",
    "examples": "sdlora/examples",
}
"""Folder of the checkout -> where it lies in the wheel."""

BUILT_FROM = ("pyproject.toml", "setup.py", "README.md", "LICENSE")

FEW = (
    "trainer.max_steps=2",
    "sampling.num_prompts=1",
    "sampling.num_steps=1",
    "evaluation=none",
    "logger=none",
)

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; where it fails, so does the test."""
    hidden = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=hidden, capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as building leaves files beside the code."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in PLACES:
        hidden = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=hidden)
    for name in BUILT_FROM:
        shutil.copyfile(REPOSITORY / name, copy / name)
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", out, copy, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of ``sdlora`` and ``python`` of an environment with the wheel in it.

    It finds the libraries of this one, but no project that is installed in it for development:
    Python reads no ``.pth`` file of a folder that another one names.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    base = {"base": str(folder), "platbase": str(folder)}
    place = Path(sysconfig.get_path("scripts", "venv", base))
    python = place / ("python.exe" if os.name == "nt" else "python")
    install = ("--python", python, "install", "--no-deps", "--no-index", wheel)
    run(sys.executable, "-m", "pip", *install, cwd=folder)
    libraries = [path for path in sys.path if path.endswith("-packages")]
    own = Path(sysconfig.get_path("purelib", "venv", base))
    (own / "libraries.pth").write_text("\n".join(libraries), "utf-8")
    return place


def test_all_that_the_checkout_ships_is_in_the_wheel_once(wheel: Path) -> None:
    shipped = [
        f"{place}/{path.relative_to(REPOSITORY / folder).as_posix()}"
        for folder, place in PLACES.items()
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__" and not path.name.startswith(".")
    ]
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(shipped)


def test_a_training_from_an_empty_folder(scripts: Path, tmp_path: Path) -> None:
    sdlora = scripts / "sdlora"
    found = run(scripts / "python", "-c", "import sdlora; print(sdlora.__file__)", cwd=tmp_path)
    assert Path(found.strip()).is_relative_to(scripts.parent)
    assert run(sdlora, "--version", cwd=tmp_path) == f"sdlora {__version__}\n"

    run(sdlora, "train", *FEW, "hydra.run.dir=first", cwd=tmp_path)
    file = tmp_path / "first" / "lora" / "my_lora.safetensors"
    header = read_metadata(file)
    assert json.loads(header["sdlora.config"])["data"]["root"] == "example:portraits"
    for place in (scripts.parent, tmp_path, REPOSITORY):
        assert str(place) not in json.dumps(header)
    facts = json.loads(run(sdlora, "lora", "inspect", file, "--json", "--weights", cwd=tmp_path))
    assert (facts["layout"], facts["is_finite"]) == ("kohya", True)
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_sweep_whose_cell_has_two_processes(scripts: Path, tmp_path: Path) -> None:
    """Hydra finds the sweeper, and the other process the package, in the environment alone."""
    two = ("trainer=ddp", "trainer.accelerator=cpu")
    run(scripts / "sdlora", "train", "-m", "seed=1", *FEW, *two, "sweep.name=s", cwd=tmp_path)
    assert (tmp_path / "outputs" / "s" / "report.html").is_file()
    assert list((tmp_path / "outputs" / "s").glob("*/lora/my_lora.safetensors"))
