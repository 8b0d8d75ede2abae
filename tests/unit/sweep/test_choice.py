"""The cell to take: by the rule of the best checkpoint, against numbers worked by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sdlora.reports.sweep_choice import commands, sentences
from sdlora.sweep.cells import read_sweep
from sdlora.sweep.choice import Choice, choose, pareto_front, rule_of
from tests.sweep_folders import scores, write_cell, write_json, write_state, write_sweep


def choice_of(folder: Path, cells: Sequence[Mapping[str, Any]]) -> Choice | None:
    """Of finished cells; ``cells`` are the arguments of ``write_cell`` and ``swept``."""
    folders = write_sweep(folder, [cell["swept"] for cell in cells])
    for path, cell in zip(folders, cells, strict=True):
        write_cell(path, **{key: value for key, value in cell.items() if key != "swept"})
    return choose(read_sweep(folder))


def test_the_lowest_face_distance_that_keeps_its_prompts_wins(tmp_path: Path) -> None:
    choice = choice_of(
        tmp_path,
        [
            {"swept": {"r": 1}, "face": 0.75},
            {"swept": {"r": 2}, "face": 0.5, "clip": 85.0},  # 1.0 below the base: just kept
            {"swept": {"r": 4}, "face": 0.25, "clip": 84.875},  # 1.125 below
        ],
    )
    assert choice is not None
    assert choice.winner.cell.number == 2
    assert choice.runner_up is not None
    assert choice.runner_up.cell.number == 1
    assert [cell.number for cell in choice.refused] == [3]
    assert (choice.num_candidates, choice.winner.mean, choice.winner.spread) == (2, 0.5, None)
    assert choice.advantage is None  # no pictures are known one by one


def test_the_highest_clip_score_wins_where_it_selects(tmp_path: Path) -> None:
    rule = {"select": "clip_score", "max_clip_loss": 1.0}
    cells = [{"swept": {"r": n}, "clip": clip, "rule": rule} for n, clip in ((1, 86.5), (2, 87.0))]
    choice = choice_of(tmp_path, cells)
    assert choice is not None
    assert (choice.winner.cell.number, choice.winner.mean) == (2, 87.0)


def test_the_lowest_kernel_distance_wins_where_it_selects(tmp_path: Path) -> None:
    rule = {"select": "kid", "max_clip_loss": 1.0}
    for folder, kid in zip(write_sweep(tmp_path, [{"r": 1}, {"r": 2}]), (0.25, 0.5), strict=True):
        write_cell(folder, rule=rule)
        measured = {**scores(0.5, 86.0), "values": {"kid": kid, "clip_score": 86.0}}
        write_json(folder / "lora" / "scores.json", {"step": 10, "scores": measured})
    sweep = read_sweep(tmp_path)
    choice = choose(sweep)
    assert choice is not None
    assert (choice.winner.cell.number, choice.winner.mean) == (1, 0.25)
    assert "it has the lowest KID of 2 cells, 0.250," in sentences(sweep, choice)[0]


def test_of_equal_cells_the_first_wins(tmp_path: Path) -> None:
    faces = [0.5, 0.5, 0.5]
    choice = choice_of(tmp_path, [{"swept": {"r": n}, "face": 0.5, "faces": faces} for n in (8, 4)])
    assert choice is not None
    assert choice.winner.cell.number == 1
    assert choice.advantage is not None
    assert (choice.advantage.mean, choice.advantage.low, choice.advantage.high) == (0, 0, 0)
    assert not choice.advantage.is_clear


def test_pictures_are_paired(tmp_path: Path) -> None:
    """Far apart from each other, but every picture is 0.125 better: the difference is sure."""
    faces = [0.25, 0.5, 1.0, 1.5]
    worse = [None, *(face + 0.125 for face in faces[1:])]
    choice = choice_of(
        tmp_path,
        [
            {"swept": {"r": 1}, "face": 0.9375, "faces": worse},
            {"swept": {"r": 2}, "face": 0.8125, "faces": faces},
        ],
    )
    assert choice is not None
    found = choice.advantage
    assert found is not None
    assert (found.mean, found.low, found.high) == (0.125, 0.125, 0.125)
    assert (found.count, found.over, found.is_clear) == (3, "pictures", True)


def test_a_difference_inside_its_interval_is_not_clear(tmp_path: Path) -> None:
    """Better by 0.5 in one picture, worse by 0.25 in the other: their means reach from -0.25."""
    choice = choice_of(
        tmp_path,
        [
            {"swept": {"r": 1}, "face": 0.625, "faces": [1.0, 0.25]},
            {"swept": {"r": 2}, "face": 0.5, "faces": [0.5, 0.5]},
        ],
    )
    assert choice is not None
    found = choice.advantage
    assert found is not None
    assert (found.mean, found.low, found.high) == (0.125, -0.25, 0.5)
    assert not found.is_clear


def seeds(rank: int, faces: Sequence[float], **more: Any) -> list[dict[str, Any]]:
    return [
        {"swept": {"r": rank, "seed": seed}, "face": face, **more}
        for seed, face in enumerate(faces)
    ]


def test_seeds_are_repeats(tmp_path: Path) -> None:
    """Means 0.7 and 0.5, though the single best cell has the worse mean.

    Differences by seed 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, Student's quantile at 2 degrees
    4.303 (any table): 0.2 -+ 4.303 * 0.1 / sqrt(3) = 0.2 -+ 0.2484.
    """
    choice = choice_of(tmp_path, [*seeds(1, [0.6, 0.7, 0.8]), *seeds(2, [0.5, 0.5, 0.5])])
    assert choice is not None
    assert choice.winner.mean == pytest.approx(0.5)
    assert choice.winner.spread == 0
    assert choice.winner.cell.overrides == {"r": 2, "seed": 0}
    assert choice.runner_up is not None
    assert choice.runner_up.mean == pytest.approx(0.7)
    assert choice.runner_up.spread == pytest.approx(0.1)
    found = choice.advantage
    assert found is not None
    assert (found.count, found.over, found.is_clear) == (3, "seeds", False)
    assert found.mean == pytest.approx(0.2)
    assert found.high - found.mean == pytest.approx(0.2484, abs=1e-4)


def test_settings_that_lose_the_prompts_with_one_seed_are_not_chosen(tmp_path: Path) -> None:
    lucky = [*seeds(1, [0.2]), {"swept": {"r": 1, "seed": 1}, "face": 0.2, "clip": 80.0}]
    choice = choice_of(tmp_path, [*lucky, *seeds(2, [0.5, 0.6])])
    assert choice is not None
    assert choice.winner.cell.number == 3
    assert [cell.number for cell in choice.refused] == [2]
    assert choice.runner_up is None


def test_only_finished_cells_compete(tmp_path: Path) -> None:
    folders = write_sweep(tmp_path, [{"r": 1}, {"r": 2}])
    for folder, face in zip(folders, (0.5, 0.25), strict=True):
        write_cell(folder, face)
    write_state(folders[1], "failed", "killed")
    choice = choose(read_sweep(tmp_path))
    assert choice is not None
    assert choice.winner.cell.number == 1
    write_state(folders[0], "running")
    sweep = read_sweep(tmp_path)
    assert choose(sweep) is None
    assert sentences(sweep, None) == [
        "No cell is recommended yet: none is finished that can be chosen."
    ]


def test_runs_that_select_nothing_recommend_nothing(tmp_path: Path) -> None:
    rule = {"select": "none", "max_clip_loss": 1.0}
    assert choice_of(tmp_path, [{"swept": {"r": 1}, "rule": rule}]) is None
    sweep = read_sweep(tmp_path)
    assert rule_of(sweep) is None
    assert "evaluation.select=none" in sentences(sweep, None)[0]


def test_the_sentence_says_which_why_and_against_what(tmp_path: Path) -> None:
    cells = [
        {"swept": {"r": 1}, "face": 0.9375, "faces": [0.375, 1.125, 1.625]},
        {"swept": {"r": 2}, "face": 0.8125, "faces": [0.25, 1.0, 1.5]},
    ]
    choice = choice_of(tmp_path, cells)
    assert choice is not None
    sweep = read_sweep(tmp_path)
    assert sentences(sweep, choice) == [
        "Take cell 2 (r=2), at step 10: it has the lowest face distance of 2 cells, 0.812 (base "
        "1.250), and its CLIP score, 86.00, is not more than 1 below the base's 86.00.",
        "The runner-up is cell 1 (r=1) with 0.938. The difference is 0.1250 over 3 common pictures "
        "(95 % interval 0.1250 to 0.1250), which excludes 0: more than chance among these "
        "pictures.",
    ]


def test_the_commands_name_the_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named by overrides needs quotes: Hydra would read its commas as a list."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "rank"
    choice = choice_of(folder, [{"swept": {"lora.r": 2, "seed": 1}}])
    assert choice is not None
    assert list(commands(read_sweep(folder), choice).items()) == [
        (
            "Train it for longer, to step 40",
            "sdlora train 'resume=\"outputs/rank/lora.r=2,seed=1\"' trainer.max_steps=40",
        ),
        ("Export it", "sdlora lora run outputs/rank/lora.r=2,seed=1"),
    ]


def test_a_finished_winner_is_not_exported_again_but_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    choice = choice_of(tmp_path, [{"swept": {"r": 2}}])
    assert choice is not None
    cell = choice.winner.cell
    file = cell.folder / "lora" / f"{cell.at('export.name')}.safetensors"
    file.touch()
    assert list(commands(read_sweep(tmp_path), choice)) == ["Train it for longer, to step 40"]
    assert sentences(read_sweep(tmp_path), choice)[-1] == (
        f"Its LoRA: {file.relative_to(tmp_path).as_posix()} (ComfyUI, A1111), "
        f"{file.parent.relative_to(tmp_path).as_posix()} (diffusers)."
    )


def test_the_pareto_front() -> None:
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 3.0), (3.0, 3.0), (1.0, 3.0)]
    assert pareto_front(points) == [1, 5, 2, 0]  # (2, 3) is as good as (2, 2) in one, worse in one
    assert pareto_front([]) == []


def test_of_equal_cells_the_first_wins_whichever_way_is_better(tmp_path: Path) -> None:
    rule = {"select": "clip_score", "max_clip_loss": 1.0}
    cells = [
        {"swept": {"r": n}, "clip": c, "rule": rule} for n, c in ((8, 86.0), (4, 87.0), (2, 87.0))
    ]
    choice = choice_of(tmp_path, cells)
    assert choice is not None
    assert choice.winner.cell.number == 2
    assert choice.runner_up is not None
    assert choice.runner_up.cell.number == 3


def test_a_clip_score_above_the_bases_refuses_nothing(tmp_path: Path) -> None:
    rule = {"select": "face_distance", "max_clip_loss": 0.0}
    cells = [
        {"swept": {"r": 1}, "face": 0.75, "clip": 86.0, "rule": rule},
        {"swept": {"r": 2}, "face": 0.5, "clip": 99.0, "rule": rule},
    ]
    choice = choice_of(tmp_path, cells)
    assert choice is not None
    assert (choice.winner.cell.number, list(choice.refused)) == (2, [])


def test_nothing_is_taken_where_no_cell_beats_the_base(tmp_path: Path) -> None:
    """The base has 1.25: equal is not better. Nothing on the page says that a cell be taken."""
    assert choice_of(tmp_path, [{"swept": {"r": 1}, "face": 1.25}]) is None
    cells = [{"swept": {"r": 1}, "face": 1.5}, {"swept": {"r": 2}, "face": 1.375}]
    assert choice_of(tmp_path, cells) is None
    sweep = read_sweep(tmp_path)
    assert sentences(sweep, None) == [
        "Take none of them: no cell has a better face distance than the base. The best, cell 2 "
        "(r=2), has 1.375 (base 1.250). Train for longer, or with other rates."
    ]
    better = [*cells, {"swept": {"r": 4}, "face": 1.2}]
    choice = choice_of(tmp_path, better)
    assert choice is not None
    assert choice.winner.cell.number == 3
    assert choice.runner_up is not None
    assert choice.runner_up.cell.number == 2


def test_seeds_beat_the_base_by_their_mean(tmp_path: Path) -> None:
    assert choice_of(tmp_path, seeds(1, [1.0, 1.6])) is None
    assert choice_of(tmp_path, seeds(1, [1.0, 1.4])) is not None


def test_a_higher_score_beats_a_lower_base(tmp_path: Path) -> None:
    rule = {"select": "clip_score", "max_clip_loss": 1.0}
    assert choice_of(tmp_path, [{"swept": {"r": 1}, "clip": 86.0, "rule": rule}]) is None
    assert choice_of(tmp_path, [{"swept": {"r": 1}, "clip": 86.25, "rule": rule}]) is not None
