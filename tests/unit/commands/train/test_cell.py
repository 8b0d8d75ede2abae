"""A cell of a sweep, without its training: what it marks, and what must not fail it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sdlora.commands.train.cell import Cell
from sdlora.evaluation.selection import Rule
from sdlora.runtime.kept import Kept
from sdlora.runtime.progress import Progress
from sdlora.sweep.state import DONE, FAILED, RUNNING, read_state
from tests.sweep_folders import write_sweep

RULE = Rule("face_distance", max_clip_loss=1.0)


@pytest.fixture
def cells(tmp_path: Path) -> list[Path]:
    folders = write_sweep(tmp_path, [{"seed": seed} for seed in (1, 2, 3)])
    for folder in folders:
        folder.mkdir()
    return folders


def run(folders: list[Path], during: Callable[[], None] = lambda: None) -> None:
    """One process that runs these cells."""
    kept = Kept()
    for folder in folders:
        with Progress(enabled=False) as progress, Cell(folder, RULE, kept, progress):
            during()


def state_of(folder: Path) -> str:
    state = read_state(folder)
    assert state is not None
    return state.state


def raise_(error: BaseException) -> None:
    raise error


def test_a_cell_is_done_or_failed_or_cut(
    cells: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(cells[:1])
    with pytest.raises(OSError, match="full"):
        run(cells[1:2], lambda: raise_(OSError("full")))
    with pytest.raises(SystemExit):
        run(cells[2:], lambda: raise_(SystemExit(143)))
    assert [state_of(cell) for cell in cells] == [DONE, FAILED, RUNNING]
    failed = read_state(cells[1])
    assert failed is not None
    assert failed.reason == "OSError: full"
    # a slow machine says how long the others will take
    told = re.sub(", about .* left", "", capsys.readouterr().out).splitlines()
    assert told[0] == f"sweep {tmp_path}: 1 of 3 cells done"
    assert told[-1] == f"sweep {tmp_path}: 1 of 3 cells done, 1 running, 1 failed"
    assert "1 failed" in (tmp_path / "report.html").read_text("utf-8")


def test_a_page_that_cannot_be_written_fails_no_cell(
    cells: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html").mkdir()
    run(cells)
    assert [state_of(cell) for cell in cells] == [DONE] * 3
    told = capsys.readouterr().out
    assert told.count(f"warning: sweep {tmp_path}: its page cannot be written (IsADirectory") == 1
    assert "3 of 3 cells done" in told
    assert (tmp_path / "results.csv").read_text("utf-8").count("done") == 3


def test_a_damaged_list_of_cells_fails_none(
    cells: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(cells[:2], lambda: (tmp_path / "sweep.yaml").unlink(missing_ok=True))
    assert [state_of(cell) for cell in cells[:2]] == [DONE] * 2
    told = capsys.readouterr().out
    assert told.count("warning: ") == 2  # the line and the page, each once
    assert f"sweep={tmp_path}: holds no sweep.yaml" in told
