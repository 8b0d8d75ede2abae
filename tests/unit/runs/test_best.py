"""``best/``: whole or not at all, and found again by a resumed run."""

import json
from pathlib import Path

import pytest

from sdlora.evaluation.scores import Scores
from sdlora.evaluation.selection import Rule
from sdlora.runs.best import BestAdapter, read_best

RULE = Rule("face_distance", 1.0)


def scores(face_distance: float) -> Scores:
    return Scores(
        num_pictures=1,
        values={"face_distance": face_distance, "clip_score": 30.0, "copying": None},
        reasons={"copying": "no training pictures"},
        intervals={"face_distance": (face_distance - 0.1, face_distance + 0.1)},
        per_picture={"prompt": ["a man"], "face_distance": [face_distance]},
    )


BASE = scores(1.4)


def keeper(run: Path, content: str) -> BestAdapter:
    def write(folder: Path) -> None:
        (folder / "w").write_text(content, "utf-8")

    return BestAdapter(run, RULE, write)


def test_a_better_one_takes_the_place_and_a_resumed_run_compares_with_it(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None
    assert keeper(tmp_path, "first").consider(3, scores(0.8), BASE)
    resumed = keeper(tmp_path, "second")
    assert not resumed.consider(6, scores(0.8), BASE)
    assert (tmp_path / "best" / "w").read_text("utf-8") == "first"
    assert resumed.consider(9, scores(0.7), BASE)
    assert (tmp_path / "best" / "w").read_text("utf-8") == "second"
    found = read_best(tmp_path)
    assert found is not None
    assert (found.step, found.scores) == (9, scores(0.7))
    stored = json.loads((tmp_path / "best" / "scores.json").read_text("utf-8"))
    assert stored["rule"] == {"score": "face_distance", "max_clip_loss": 1.0}


def test_a_failed_write_leaves_the_older_one(tmp_path: Path) -> None:
    keeper(tmp_path, "first").consider(3, scores(0.8), BASE)

    def fail(folder: Path) -> None:
        (folder / "w").write_text("half", "utf-8")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        BestAdapter(tmp_path, RULE, fail).consider(6, scores(0.1), BASE)
    assert (tmp_path / "best" / "w").read_text("utf-8") == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_damaged_score_file_is_no_best(tmp_path: Path) -> None:
    keeper(tmp_path, "first").consider(3, scores(0.8), BASE)
    (tmp_path / "best" / "scores.json").write_text("{", "utf-8")
    assert read_best(tmp_path) is None
    assert keeper(tmp_path, "again").consider(6, scores(0.9), BASE)


def test_scores_of_an_older_version_are_no_best(tmp_path: Path) -> None:
    keeper(tmp_path, "first").consider(3, scores(0.8), BASE)
    flat = {"num_pictures": 1, "face_distance": 0.8, "faceless": 0, "clip_score": 30.0}
    (tmp_path / "best" / "scores.json").write_text(json.dumps({"step": 3, "scores": flat}), "utf-8")
    assert read_best(tmp_path) is None


def test_of_a_score_of_which_more_is_better_the_higher_takes_the_place(tmp_path: Path) -> None:
    def measured(value: float) -> Scores:
        return Scores(1, {"clip_score": value})

    best = BestAdapter(tmp_path, Rule("clip_score", 1.0), lambda folder: None)
    base = measured(30.0)
    taken = [best.consider(n, measured(v), base) for n, v in enumerate((29.0, 28.5, 31.0, 31.0))]
    assert taken == [True, False, True, False]  # lower, too low, better, equal
    assert best.best is not None
    assert (best.best.step, best.best.scores.value("clip_score")) == (2, 31.0)
