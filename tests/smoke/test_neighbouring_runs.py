"""Runs in each other's way: two starts in one folder, a folder in another, a folder that moved."""

import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.smoke.conftest import SMALL, TrainHere
from tests.smoke.forked_train import started
from tests.smoke.hits import Hit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has no fork"),
]

FILE = "lora/pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def settings(pictures: Path, random_base: Path) -> tuple[str, ...]:
    return (
        *SMALL,
        *(f"model.path={random_base}", f"data.root={pictures}", "data.resolution=32"),
        *("data.batch_size=2", "checkpoint.every_n_steps=1", "trainer.max_steps=12"),
    )


def assert_same(run: Path, whole: Path) -> None:
    """The files of the undisturbed run, with its bits."""
    own = (".hydra", ".lock", "train.log", "after", "child")
    names = [
        {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and not path.relative_to(folder).parts[0].startswith(own)
        }
        for folder in (run, whole)
    ]
    assert names[0] == names[1]
    ours, theirs = load_file(run / FILE), load_file(whole / FILE)
    assert all(ours[key].equal(theirs[key]) for key in theirs)


def together(*starts: Any) -> list[int | None]:
    """Exit codes of processes that run side by side."""
    for process in starts:
        process.join()
    return [process.exitcode for process in starts]


def test_of_two_starts_in_one_folder_one_trains(
    settings: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    given = (*settings, f"run_dir={tmp_path}/run")
    outputs = [tmp_path / name for name in ("first.txt", "second.txt")]
    codes = together(*(started(given, output) for output in outputs))
    assert sorted(codes, key=str) == [0, 2]
    refused = outputs[codes.index(2)].read_text("utf-8")
    # it may come so late that the first has ended
    assert "another process is training in it" in refused or "holds a run already" in refused
    assert_same(tmp_path / "run", whole)


def test_a_run_in_the_folder_above_leaves_the_one_below_alone(
    settings: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    above, below = tmp_path / "runs", tmp_path / "runs" / "child"
    starts = (
        started((*settings, f"run_dir={folder}"), tmp_path / f"{folder.name}.txt")
        for folder in (below, above)
    )
    assert together(*starts) == [0, 0]
    assert_same(above, whole)
    assert_same(below, whole)


def test_a_folder_that_moved_is_gone_on_with(
    settings: tuple[str, ...], whole: Path, train_only: TrainHere, tmp_path: Path
) -> None:
    before, after = tmp_path / "before", tmp_path / "elsewhere" / "it's moved"
    hit = Hit("TERM", "step", 5)
    stopped = started((*settings, f"run_dir={before}"), tmp_path / "told.txt", hit=hit)
    assert together(stopped) == [143]
    after.parent.mkdir()
    before.rename(after)
    train_only(f"resume={after}")
    assert not before.exists()
    assert_same(after, whole)
