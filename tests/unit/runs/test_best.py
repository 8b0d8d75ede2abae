"""The chosen adapter: whole or not at all, and found again by a resumed run."""

import json
from pathlib import Path

import pytest

from sdlora.evaluation.scores import Scores
from sdlora.evaluation.selection import Rule
from sdlora.runs.best import Best, BestAdapter, chosen_folder, read_best

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
    assert (tmp_path / "lora" / "w").read_text("utf-8") == "first"
    assert resumed.consider(9, scores(0.7), BASE)
    assert (tmp_path / "lora" / "w").read_text("utf-8") == "second"
    found = read_best(tmp_path)
    assert found is not None
    assert (found.step, found.scores) == (9, scores(0.7))
    stored = json.loads((tmp_path / "lora" / "scores.json").read_text("utf-8"))
    assert stored["rule"] == {"score": "face_distance", "max_clip_loss": 1.0}


def test_a_failed_write_leaves_the_older_one(tmp_path: Path) -> None:
    keeper(tmp_path, "first").consider(3, scores(0.8), BASE)

    def fail(folder: Path) -> None:
        (folder / "w").write_text("half", "utf-8")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        BestAdapter(tmp_path, RULE, fail).consider(6, scores(0.1), BASE)
    assert (tmp_path / "lora" / "w").read_text("utf-8") == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


def test_a_damaged_score_file_is_no_best(tmp_path: Path) -> None:
    keeper(tmp_path, "first").consider(3, scores(0.8), BASE)
    (tmp_path / "lora" / "scores.json").write_text("{", "utf-8")
    assert read_best(tmp_path) is None
    assert keeper(tmp_path, "again").consider(6, scores(0.9), BASE)


def test_scores_of_an_older_version_are_no_best(tmp_path: Path) -> None:
    keeper(tmp_path, "first").consider(3, scores(0.8), BASE)
    flat = {"num_pictures": 1, "face_distance": 0.8, "faceless": 0, "clip_score": 30.0}
    (tmp_path / "lora" / "scores.json").write_text(json.dumps({"step": 3, "scores": flat}), "utf-8")
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


def older_run(run: Path) -> None:
    """As older versions left it: the chosen step in ``best/``, the last in ``lora/``."""
    keeper(run, "chosen").consider(3, scores(0.8), BASE)
    (run / "lora").rename(run / "best")
    (run / "lora").mkdir()
    (run / "lora" / "w").write_text("last", "utf-8")


def test_the_choice_of_an_older_run_is_read_where_it_lies(tmp_path: Path) -> None:
    older_run(tmp_path)
    assert chosen_folder(tmp_path) == tmp_path / "best"
    assert read_best(tmp_path) == Best(3, scores(0.8))


def test_an_older_run_that_is_resumed_keeps_its_choice_in_the_place_of_today(
    tmp_path: Path,
) -> None:
    older_run(tmp_path)
    assert not keeper(tmp_path, "worse").consider(6, scores(0.9), BASE)
    assert (tmp_path / "lora" / "w").read_text("utf-8") == "chosen"
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]
    assert read_best(tmp_path) == Best(3, scores(0.8))


def test_an_older_whole_model_is_moved_out_of_its_inner_folder(tmp_path: Path) -> None:
    keeper(tmp_path, "chosen").consider(3, scores(0.8), BASE)
    (tmp_path / "lora").rename(tmp_path / "best")
    (tmp_path / "best" / "pipeline").mkdir()
    (tmp_path / "best" / "w").rename(tmp_path / "best" / "pipeline" / "w")
    BestAdapter(tmp_path, RULE, lambda folder: None, "pipeline")
    assert sorted(path.name for path in (tmp_path / "pipeline").iterdir()) == ["scores.json", "w"]
    assert chosen_folder(tmp_path) == tmp_path / "pipeline"
