"""How a sweep stands, from the files of its cells; numbers by hand."""

import json
from dataclasses import asdict
from pathlib import Path

from sdlora.evaluation.scores import Scores
from sdlora.evaluation.selection import Rule
from sdlora.sweep.state import DONE, FAILED, RUNNING, CellState, read_state, standing, write_state

BEGAN = "2026-01-31T12:00:00+00:00"
LEAST = Rule("face_distance", max_clip_loss=1.0)
MOST = Rule("clip_score", max_clip_loss=1.0)


def cell(sweep: Path, name: str, state: str | None, seconds: float = 0.0, **scores: float) -> Path:
    folder = sweep / name
    folder.mkdir()
    if state is not None:
        write_state(folder, CellState(state=state, started=BEGAN, seconds=seconds))
    if scores:
        (folder / "lora").mkdir()
        best = {"step": 3, "scores": asdict(Scores(num_pictures=1, values=scores))}
        (folder / "lora" / "scores.json").write_text(json.dumps(best), "utf-8")
    return folder


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = CellState(state=FAILED, started=BEGAN, reason="no", seconds=1.5, file_bytes=7)
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state


def test_a_damaged_state_is_none(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    for text in ("{", "[]", '{"state": "done"}', '{"state": "done", "started": "", "more": 1}'):
        (tmp_path / "cell.json").write_text(text, "utf-8")
        assert read_state(tmp_path) is None


def test_a_sweep_stands_as_its_cells(tmp_path: Path) -> None:
    """Two of five took 60 and 120 s, so the two that are not done or failed take 90 s each."""
    folders = [
        cell(tmp_path, "r=1", DONE, 60, face_distance=0.5, clip_score=80.0),
        cell(tmp_path, "r=2", DONE, 120, face_distance=0.4, clip_score=79.0),
        cell(tmp_path, "r=3", RUNNING, 10, face_distance=0.1, clip_score=90.0),
        cell(tmp_path, "r=4", FAILED, 5),
        cell(tmp_path, "r=5", None),
    ]
    found = standing(folders, LEAST, 5)
    assert (found.total, found.done, found.running, found.failed) == (5, 2, 1, 1)
    assert found.seconds_left == 2 * 90
    assert found.best == ("r=2", 0.4)
    assert standing(folders, MOST, 5).best == ("r=1", 80.0)
    assert found.line("face_distance") == (
        "2 of 5 cells done, 1 running, 1 failed, about 3 min left, "
        "best so far: r=2 (face_distance 0.4)"
    )


def test_the_line_says_where_no_cell_beats_the_base(tmp_path: Path) -> None:
    folders = [
        cell(tmp_path, f"r={rank}", DONE, 60, face_distance=face, clip_score=80.0)
        for rank, face in ((1, 1.2), (2, 1.138))
    ]
    for folder, base in zip(folders, (1.1, 1.1), strict=True):
        row = asdict(Scores(num_pictures=1, values={"face_distance": base, "clip_score": 80.0}))
        (folder / "report.json").write_text(json.dumps({"scores": {"base": row}}), "utf-8")
    line = standing(folders, LEAST, 2).line("face_distance")
    assert line.endswith("none better than the base so far (the best: r=2, face_distance 1.138)")
    assert standing(folders, MOST, 2).line("clip_score").endswith("r=1, clip_score 80)")
    row = asdict(Scores(num_pictures=1, values={"face_distance": 1.139}))
    (folders[1] / "report.json").write_text(json.dumps({"scores": {"base": row}}), "utf-8")
    line = standing(folders, LEAST, 2).line("face_distance")
    assert line.endswith("best so far: r=2 (face_distance 1.138)")


def test_a_search_stands_among_the_trials_that_it_will_have(tmp_path: Path) -> None:
    """Three of the 20 are known, each took a minute, so the other 17 take 17."""
    folders = [cell(tmp_path, f"r={rank}", DONE, 60) for rank in (1, 2, 3)]
    told = standing(folders, LEAST, 20).line("face_distance")
    assert told == "3 of 20 cells done, about 17 min left"


def test_nothing_is_said_of_what_is_not_known(tmp_path: Path) -> None:
    folders = [cell(tmp_path, "r=1", None), cell(tmp_path, "r=2", DONE)]
    assert standing(folders[:1], LEAST, 1).line("face_distance") == "0 of 1 cells done"
    assert standing(folders[1:], Rule("none", 1.0), 1).line("none") == "1 of 1 cells done"
