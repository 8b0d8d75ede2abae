"""A search as a user runs it, in this process: trials that fail, a search that is cut."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

optuna = pytest.importorskip("optuna", reason="optuna is not installed (the extra search)")

from sdlora.commands.train import results  # noqa: E402
from sdlora.sweep.search import NAME, storage_of  # noqa: E402
from tests.smoke.conftest import SMALL, TrainHere  # noqa: E402

pytestmark = pytest.mark.slow
SCORED = ("evaluation=default", "evaluation.face=none", "evaluation.image=none")


@pytest.fixture
def settings(pictures: Path, random_base: Path) -> tuple[str, ...]:
    return (
        *(item for item in SMALL if not item.startswith("evaluation=")),
        *SCORED,
        "evaluation.select=clip_score",
        "evaluation.every_n_steps=1",
        "sweep=search",
        "sweep.objectives=[clip_score]",
        f"model.path={random_base}",
        f"data.root={pictures}",
        "data.resolution=32",
        "data.batch_size=2",
        "trainer.max_steps=2",
        "checkpoint.every_n_steps=1",
    )


def trials(folder: Path) -> list[tuple[str, Any, Any]]:
    """State, parameters and values of each trial."""
    study = optuna.load_study(study_name=NAME, storage=storage_of(folder))
    return [(trial.state.name, trial.params, trial.values) for trial in study.trials]


def best_value(cell: Path) -> float:
    stored = json.loads((cell / "lora" / "scores.json").read_text("utf-8"))
    return float(stored["scores"]["values"]["clip_score"])


def test_a_search_that_is_cut_ends_as_if_it_never_was(
    train_only: TrainHere,
    settings: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C in its second trial, after the training."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_only(*settings, "sweep.num_trials=2", f"hydra.sweep.dir={whole}")
    assert f"sweep {whole}: 1 of 2 cells done" in capsys.readouterr().out  # none asks for more yet

    finish, calls = results.finish, []

    def interrupted(run: Any, fitted: Any) -> Any:
        calls.append(run)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return finish(run, fitted)

    monkeypatch.setattr(results, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_only(*settings, "sweep.num_trials=2", f"hydra.sweep.dir={cut}")
    assert [state for state, _, _ in trials(cut)] == ["COMPLETE", "RUNNING"]
    train_only(*settings, "sweep.num_trials=2", f"hydra.sweep.dir={cut}")
    assert trials(cut) == trials(whole)
    assert len(calls) == 3  # the first once, the second twice

    folders = sorted(path.name for path in whole.glob("lora.r=*"))
    assert folders == sorted(path.name for path in cut.glob("lora.r=*"))
    values = [value for _, _, [value] in trials(whole)]
    assert sorted(values) == sorted(best_value(whole / name) for name in folders)
    assert f"search {cut}: 2 complete" in capsys.readouterr().out
    page = (cut / "report.html").read_text("utf-8")  # which each finished cell writes anew
    assert "2 (2 done)" in page


def test_a_trial_that_fails_is_marked_and_the_others_go_on(
    train_only: TrainHere, settings: tuple[str, ...], tmp_path: Path, pictures: Path
) -> None:
    empty, folder = tmp_path / "empty", tmp_path / "s"
    empty.mkdir()
    searched = f"data.root=choice({empty},{pictures})"
    command = (*settings, searched, "sweep.num_trials=3", f"hydra.sweep.dir={folder}")
    with pytest.raises(ValueError, match="empty"):
        train_only(*command)
    found = trials(folder)
    assert len(found) == 3
    assert [state for state, _, _ in found] == [
        "FAIL" if params["data.root"] == str(empty) else "COMPLETE" for _, params, _ in found
    ]
    states = [json.loads(path.read_text("utf-8"))["state"] for path in folder.glob("*/cell.json")]
    assert sorted(set(states)) == ["done", "failed"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.objectives=[face]", "sweep.objectives=face: unknown; did you mean faceless? "),
        ("sweep.objectives=[]", "sweep.objectives=[]: lists the scores to optimize"),
        ("sweep.objectives=[kid]", "sweep.objectives=kid: is not measured; set evaluation.kid, or"),
        ("sweep.num_trials=99", "sweep.max_jobs=50: 99 runs are too many; set sweep.max_jobs=99"),
        ("lora.r=tag(log,interval(0,4))", "lora.r=tag(log,interval(0,4)): cannot be searched; "),
    ],
)
def test_a_search_that_cannot_work_is_refused(
    message_of: Callable[..., str], tmp_path: Path, override: str, message: str
) -> None:
    told = message_of("sweep=search", override, f"hydra.sweep.dir={tmp_path}/s")
    assert told.startswith(message)
    assert not (tmp_path / "s").exists()


def test_a_missing_package_is_named(
    message_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told = message_of("sweep=search", f"hydra.sweep.dir={tmp_path}/s")
    assert told == "sweep=search: needs a package of its own: pip install sdlora[search]"
