"""Which file ``checkpoint=`` means, in folders of this version and of older ones."""

from pathlib import Path

import pytest

from sdlora.config.rules import ConfigError
from sdlora.evaluation.scores import Scores
from sdlora.evaluation.selection import Rule
from sdlora.runs.adapter_file import checkpoint_path
from sdlora.runs.best import BestAdapter

FILE = "pytorch_lora_weights.safetensors"
RULE = Rule("clip_score", 1.0)
ROW = Scores(1, {"clip_score": 30.0})


def choose(run: Path) -> None:
    BestAdapter(run, RULE, lambda folder: None).consider(1, ROW, ROW)


def test_the_chosen_and_the_last_step_have_a_folder_each(tmp_path: Path) -> None:
    choose(tmp_path)
    (tmp_path / "last").mkdir()
    for checkpoint in ("best", "chosen"):
        assert checkpoint_path(str(tmp_path), checkpoint) == tmp_path / "lora" / FILE
    assert checkpoint_path(str(tmp_path), "last") == tmp_path / "last" / FILE


def test_in_an_older_run_they_are_best_and_lora(tmp_path: Path) -> None:
    choose(tmp_path)
    (tmp_path / "lora").rename(tmp_path / "best")
    (tmp_path / "lora").mkdir()
    for checkpoint in ("best", "chosen"):
        assert checkpoint_path(str(tmp_path), checkpoint) == tmp_path / "best" / FILE
    assert checkpoint_path(str(tmp_path), "last") == tmp_path / "lora" / FILE


def test_a_chosen_step_of_a_run_that_was_killed_is_not_its_last(tmp_path: Path) -> None:
    choose(tmp_path)
    step = tmp_path / "checkpoints" / "step_0000004"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}", "utf-8")
    assert checkpoint_path(str(tmp_path), "last") == step / FILE
    assert checkpoint_path(str(tmp_path), "chosen") == tmp_path / "lora" / FILE


def test_without_a_choice_the_message_names_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    with pytest.raises(ConfigError, match="checkpoint=best: .* choose last or a step number"):
        checkpoint_path(str(tmp_path), "best")
    assert checkpoint_path(str(tmp_path), "chosen") == tmp_path / "lora" / FILE


def test_of_a_run_that_was_killed_before_any_choice_the_newest_step_is_taken(
    tmp_path: Path,
) -> None:
    for number in (2, 4):
        step = tmp_path / "checkpoints" / f"step_{number:07d}"
        step.mkdir(parents=True)
        (step / "manifest.json").write_text("{}", "utf-8")
    assert checkpoint_path(str(tmp_path), "chosen") == step / FILE
