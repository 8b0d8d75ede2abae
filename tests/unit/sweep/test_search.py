"""The study of a search, without training: cells are folders as a finished run leaves them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna", reason="optuna is not installed (the extra search)")

from optuna.distributions import CategoricalDistribution, FloatDistribution  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from sdlora.config.rules import ConfigError  # noqa: E402
from sdlora.evaluation.scores import Scores  # noqa: E402
from sdlora.sweep.plan import write_sweep  # noqa: E402
from sdlora.sweep.pruning import pruning  # noqa: E402
from sdlora.sweep.search import NAME, Goal, Search, SearchedKey, storage_of  # noqa: E402
from tests.sweep_folders import BASE_FACE, write_cell, write_state  # noqa: E402

RANK = SearchedKey("lora.r", "lora.r", "4,8", CategoricalDistribution(["4", "8"]), {"4": 4, "8": 8})
RATE = SearchedKey("optim.unet_lr", "optim.unet_lr", "", FloatDistribution(1e-4, 1e-2), {})
FACE = Goal(objectives={"face_distance": "minimize"}, space={}, prune_after=2)
BOTH = Goal(
    objectives={"face_distance": "minimize", "clip_score": "maximize"}, space={}, prune_after=2
)


def search(folder: Path, goal: Goal = FACE, keys: Sequence[SearchedKey] = (RANK, RATE)) -> Search:
    return Search(folder, keys, goal, seed=0)


def asked(opened: Search) -> int:
    """One more trial, and ``sweep.yaml`` as the sweeper writes it then."""
    number = opened.ask()
    assert number is not None
    write_sweep(opened.folder, opened.folder.name, [], [], [], opened.cells())
    return number


def finished(opened: Search, face: float, clip: float = 86.0) -> int:
    """A trial that ended with these scores."""
    number = asked(opened)
    write_cell(opened.folder / opened.cell(number).folder, face, clip)
    assert opened.tell(number) is None
    return number


def study_of(folder: Path) -> "optuna.Study":
    return optuna.load_study(study_name=NAME, storage=storage_of(folder))


def test_a_trial_is_a_cell_and_its_scores_are_its_value(tmp_path: Path) -> None:
    opened = search(tmp_path / "s")
    finished(opened, 0.75)
    [trial] = study_of(tmp_path / "s").trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.75)
    cell = opened.cell(0)
    rank, rate = cell.overrides["lora.r"], cell.overrides["optim.unet_lr"]
    assert rank == int(trial.params["lora.r"])
    assert rate == pytest.approx(trial.params["optim.unet_lr"], rel=1e-3)  # four digits of it
    assert cell.folder == f"lora.r={rank},optim.unet_lr={rate}"
    assert list(cell.arguments) == [f"lora.r={rank}", f"optim.unet_lr={rate}"]
    assert f"best: trial 0, face_distance 0.75: {cell.folder}" in opened.line()


def test_a_best_trial_that_is_not_better_than_the_base_is_not_to_be_taken(tmp_path: Path) -> None:
    opened = search(tmp_path / "s")
    finished(opened, BASE_FACE)
    assert opened.line().endswith(", which is not better than the base (1.25): take none of them")
    finished(opened, BASE_FACE - 0.25)
    assert "take none" not in opened.line()


def test_a_search_that_goes_on_asks_for_what_it_would_have_asked_for(tmp_path: Path) -> None:
    """Past the ten random trials with which Optuna's sampler begins, too."""
    whole = search(tmp_path / "whole")
    for number in range(13):
        finished(whole, 0.5 + number / 100)
    for number in range(13):
        finished(search(tmp_path / "cut"), 0.5 + number / 100)
    assert search(tmp_path / "cut").cells() == whole.cells()
    assert len(whole.cells()) == 13


def test_a_failed_trial_counts_as_none(tmp_path: Path) -> None:
    opened = search(tmp_path / "s")
    for state, told in (("failed", "failed, but"), ("running", "was killed")):
        number = asked(opened)
        write_state(opened.folder / opened.cell(number).folder, state)
        assert told in str(opened.tell(number))
    number = asked(opened)  # its scores lack what is searched for
    write_cell(opened.folder / opened.cell(number).folder, None)  # type: ignore[arg-type]
    assert "done, but not all of face_distance are available" in str(opened.tell(number))
    states = [trial.state for trial in study_of(opened.folder).trials]
    assert states == [TrialState.FAIL, TrialState.RUNNING, TrialState.FAIL]
    assert opened.num_trials == 1  # the one that was cut will go on


def test_two_machines_share_a_study_and_each_goes_on_with_its_own(tmp_path: Path) -> None:
    first, second = search(tmp_path / "s"), search(tmp_path / "s")
    with first.working():
        with second.working():
            assert (first.worker, second.worker) == (0, 1)
            mine, theirs = asked(first), asked(second)
            assert (first.cut(), second.cut()) == ([mine], [theirs])
        third = search(tmp_path / "s")
        with third.working():  # the second is gone, so its number is free
            assert (third.worker, third.cut()) == (1, [theirs])


def test_a_repetition_of_a_running_trial_is_not_begun(tmp_path: Path) -> None:
    opened = search(tmp_path / "s", keys=[RANK])
    found = [opened.ask() for _ in range(12)]
    assert sorted(number is not None for number in found)[-2:] == [True, True]
    assert len([number for number in found if number is not None]) == len(opened.cells()) == 2


@pytest.mark.parametrize(
    ("score", "value", "expected"),
    [
        ("face_distance", 0.75, True),  # the median of 0.25, 0.5, 1 is 0.5
        ("face_distance", 0.375, False),
        ("clip_score", 0.375, True),
        ("clip_score", 0.75, False),
    ],
)
def test_a_trial_stops_that_is_worse_than_the_median(
    tmp_path: Path, score: str, value: float, expected: bool
) -> None:
    direction = "minimize" if score == "face_distance" else "maximize"
    goal = Goal(objectives={score: direction}, space={}, prune_after=2)  # type: ignore[dict-item]
    opened = search(tmp_path / "s", goal)
    for earlier in (0.25, 1.0, 0.5):
        number = asked(opened)
        run = opened.folder / opened.cell(number).folder
        trial_so_far = pruning(run)
        assert trial_so_far is not None
        stops = trial_so_far.is_hopeless(10, Scores(1, {score: earlier}))
        assert not stops or number == 2  # two run to their end whatever they score
        write_cell(run)
        study_of(opened.folder).tell(number, 1.0)
    number = asked(opened)
    run = opened.folder / opened.cell(number).folder
    found = pruning(run)
    assert found is not None
    assert not found.is_hopeless(5, Scores(1, {}))
    assert found.is_hopeless(10, Scores(1, {score: value})) is expected
    again = pruning(run)  # after a kill
    assert again is not None
    assert again.stopped_at == (10 if expected else None)
    assert again.is_hopeless(10, Scores(1, {})) is expected  # whatever the others have come to
    write_cell(run)
    assert opened.tell(number) is None
    trial = study_of(opened.folder).trials[number]
    assert trial.state == (TrialState.PRUNED if expected else TrialState.COMPLETE)
    assert pruning(run) is None  # a finished trial that is trained for longer is not stopped


def test_of_several_scores_none_stops_a_trial_and_the_front_is_told(tmp_path: Path) -> None:
    opened = search(tmp_path / "s", BOTH)
    for face, clip in ((0.5, 80.0), (0.75, 90.0), (0.75, 70.0)):
        finished(opened, face, clip)
    told = opened.line()
    assert "trial 0, face_distance 0.5, clip_score 80:" in told
    assert "trial 1, face_distance 0.75, clip_score 90:" in told
    assert "trial 2" not in told
    assert pruning(opened.folder / opened.cell(asked(opened)).folder) is None
    assert pruning(tmp_path / "a run of no search") is None


def test_another_goal_needs_another_name(tmp_path: Path) -> None:
    search(tmp_path / "s")
    with pytest.raises(ConfigError, match=r"^sweep.name=s: .* choose another name.(.|\n)*maximize"):
        search(tmp_path / "s", BOTH)
