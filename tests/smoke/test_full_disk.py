"""A disk that is full, a real small one: the run ends whole or says what is safe, and goes on."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sdlora.assembly import training_batches
from sdlora.commands.train import live_page, preparation, results
from sdlora.runs import metrics
from sdlora.training.callbacks import drawing
from sdlora.training.callbacks.saving import Checkpoints
from tests.smoke.conftest import SMALL, TrainHere, run_here

pytestmark = pytest.mark.slow

SIZE = "24m"
FILES = ("lora/pytorch_lora_weights.safetensors", "last/my_lora.safetensors")
NO_SPACE = "No space left on device"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("mount: there is no such program")
    if mounted.returncode != 0:
        pytest.skip(f"a disk cannot be mounted here ({mounted.stderr.strip()})")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    """Take every byte that is left."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


@pytest.fixture(scope="module")
def settings(pictures: Path, random_base: Path) -> tuple[str, ...]:
    return (
        *SMALL,
        f"model.path={random_base}",
        f"data.root={pictures}",
        "data.resolution=32",
        "data.batch_size=2",
        "trainer.log_every_n_steps=1",
        "lora.dropout=0.1",
        "checkpoint.every_n_steps=2",
        "trainer.max_steps=4",
        "logger=[tensorboard,csv]",
        "sampling.every_n_steps=1",
    )


PLACES: dict[str, tuple[Any, str, int]] = {
    "start": (preparation, "write_config", 1),
    "data sheet": (preparation, "write_data_sheet", 1),
    "cache": (training_batches, "encoded_pictures", 1),
    "metrics": (metrics, "append_metrics", 2),
    "checkpoint": (Checkpoints, "save", 1),
    "last checkpoint": (Checkpoints, "save", 2),
    "pictures": (drawing, "write_samples", 2),
    "export": (results, "export_last", 1),
    "choice": (results, "export_chosen", 1),
    "page": (live_page, "write_html_report", 1),
    "end": (results, "write_finished", 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_on_a_full_disk_goes_on_when_there_is_space(
    place: str,
    settings: tuple[str, ...],
    whole: Path,
    disk: Path,
    repository: Path,
    train_only: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, calls = disk / "run", [0]
    owner, name, number = PLACES[place]
    real = getattr(owner, name)

    def full(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            fill(disk)
        return real(*given, **named)

    given = (*settings, f"data.cache.dir={disk}/cache", f"run_dir={run}")
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full)
        with pytest.raises(SystemExit) as stop:
            run_here(repository, given, evaluate=False, traceback=False)
    told = capsys.readouterr()
    assert stop.value.code == 2
    assert "Traceback" not in told.err
    assert NO_SPACE in told.out + told.err
    os.unlink(disk / "filler")
    is_begun = (run / "config.json").exists()
    assert (f"resume={run}" in told.out) is is_begun, told.out
    train_only(*((f"resume={run}",) if is_begun else given))
    for file in FILES:
        ours, theirs = load_file(run / file), load_file(whole / file)
        assert all(ours[key].equal(theirs[key]) for key in theirs)
    assert names(run) == names(whole)


def names(run: Path) -> set[str]:
    hidden = (".hydra", ".lock", "train.log", "tensorboard", "csv")
    found = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    return {name for name in found if not name.startswith(hidden)}
