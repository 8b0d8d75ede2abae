"""A score that stands in the table is shown, written, chosen by and searched for."""

import csv
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sdlora.assembly.search_goal import search_goal
from sdlora.cli.composition import to_typed
from sdlora.config.evaluation import EvaluationConfig
from sdlora.config.rules import ConfigError
from sdlora.config.score_kinds import HIGHER, KINDS, NEITHER, ScoreKind, kind
from sdlora.config.sweep import SweepConfig
from sdlora.config.train import TrainConfig
from sdlora.evaluation.comparison import score_table
from sdlora.evaluation.scores import Scores
from sdlora.evaluation.selection import Rule
from sdlora.reports import score_tables
from sdlora.sweep.cells import read_sweep
from sdlora.sweep.table import write_results
from tests.composed import composed_train
from tests.sweep_folders import scores, write_cell, write_json, write_sweep
from tests.unit.export.test_model_card import card as written_card

ROW = Scores(4, {"clip_score": 31.0, "warmth": 2.0})


@pytest.fixture
def warmth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up score, which the model of ``evaluation.aesthetic`` measures."""
    made_up = ScoreKind("Warmth of colour", HIGHER, 1, ("aesthetic",), selects=True)
    monkeypatch.setitem(KINDS, "warmth", made_up)  # type: ignore[arg-type]


def evaluation(*given: str) -> EvaluationConfig:
    composed = composed_train(*given)
    return to_typed(composed, TrainConfig).evaluation


def goal(name: str, config: EvaluationConfig) -> Any:
    sweep = SweepConfig(max_jobs=1, objectives=[name], num_trials=1, trials_at_once=1)
    return search_goal(sweep, config, {"lora.r": "choice(2,4)"}).objectives


def test_a_score_of_an_extension_is_shown_under_its_name() -> None:
    assert kind("face_distance") is KINDS["face_distance"]
    assert (kind("my_score").title, kind("my_score").arrow) == ("my score", NEITHER)


def test_titles_tell_scores_apart() -> None:
    assert len({look.title for look in KINDS.values()}) == len(KINDS)


@pytest.mark.parametrize("name", [name for name, each in KINDS.items() if each.arrow])
def test_every_score_with_a_direction_can_be_searched_for(name: str) -> None:
    """With all that it needs; without that, the message names the keys."""
    given = {
        "face": "evaluation.face.name=deepface",
        "aesthetic": "evaluation.aesthetic.name=aesthetic",
        "prior_prompts": "evaluation.prior_prompts=3",
        "kid": "evaluation.kid=true",
        "hw10": "evaluation.hw10=true",
    }
    words = ("evaluation.trigger_word=sks", "evaluation.class_word=man")
    assert goal(name, evaluation(*words, *given.values())).keys() == {name}
    with pytest.raises(ConfigError, match=f"^sweep.objectives={name}: is not measured") as error:
        goal(name, evaluation("evaluation=none"))
    assert all(f"evaluation.{key}" in str(error.value) for key in KINDS[name].needs)


@pytest.mark.usefixtures("warmth")
def test_a_score_of_the_table_can_be_searched_for_and_chosen_by() -> None:
    on = "evaluation.aesthetic.name=aesthetic"
    assert goal("warmth", evaluation(on)) == {"warmth": "maximize"}
    with pytest.raises(ConfigError, match=r"^sweep.objectives=warmth: .* set evaluation.aesthetic"):
        goal("warmth", evaluation())
    assert evaluation(on, "evaluation.select=warmth").select == "warmth"
    with pytest.raises(ConfigError, match=r"^evaluation.select=warmth: is not scored"):
        evaluation("evaluation.select=warmth")
    assert Rule("warmth", 1.0).cost(ROW, ROW) == -2.0


@pytest.mark.usefixtures("warmth")
def test_a_score_of_the_table_is_shown_and_written(tmp_path: Path) -> None:
    console = Console(width=80)
    with console.capture() as shown:
        console.print(score_table({"base": ROW}))
    assert f"Warmth of colour {HIGHER}" in shown.get()

    (state,) = score_tables.read_states({"scores": {"base": {"values": dict(ROW.values)}}})
    table = score_tables.score_table([state])
    assert table is not None
    assert [(head.title, cells[0].text) for head, cells in table.rows] == [
        ("CLIP score", "31.00"),
        ("Warmth of colour", "2.0"),
    ]

    card, _ = written_card(tmp_path / "lora", scores={"LoRA": ROW})
    assert f"| Warmth of colour {HIGHER} | 2.0 |" in card.content

    (cell,) = write_sweep(tmp_path / "sweep", [{"lora.r": 2}])
    write_cell(cell)
    values = scores(0.5, 86.0)
    values["values"]["warmth"] = 2.5
    write_json(cell / "report.json", {"version": 2, "scores": {"base": values, "LoRA": values}})
    with write_results(read_sweep(tmp_path / "sweep")).open(encoding="utf-8", newline="") as file:
        assert [row["final/warmth"] for row in csv.DictReader(file)] == ["2.5", "2.5"]
