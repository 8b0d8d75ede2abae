"""What is checked before a weight is read: prompts of the class, paths, a run's adapters."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from sdlora.assembly.prompts import prior_prompts, prompts
from sdlora.cli.command_line import prepared_arguments, register_schemas, to_typed
from sdlora.commands.evaluate.config_checks import check_evaluation
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.rules import ConfigError
from sdlora.runtime.places import CONF
from sdlora.sampling.generate import Prompt

WORDS = ("evaluation.trigger_word=sks", "evaluation.class_word=man")


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a sks man in a hat\na hat\na sks in a hat\na man in a hat\nsks\n", "utf-8")
    return path


def config_of(*given: str) -> EvaluateConfig:
    register_schemas()
    arguments = ["run_dir=here", *prepared_arguments(given, EvaluateConfig)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_typed(compose("evaluate", arguments), EvaluateConfig)


def class_prompts(path: Path, num: int, *given: str) -> tuple[Prompt, ...]:
    config = config_of(
        "lora=a",
        f"sampling.prompts={path}",
        "sampling.num_prompts=9",
        "sampling.seeds=[7,8]",
        f"evaluation.prior_prompts={num}",
        *WORDS,
        *given,
    )
    return prior_prompts(config.sampling, config.evaluation)


def test_the_first_prompts_that_call_the_person_call_the_class(prompt_file: Path) -> None:
    hat = [Prompt("a man in a hat", seed) for seed in (7, 8)]
    alone = [Prompt("man", seed) for seed in (7, 8)]
    # the first and the third prompt are one when reworded; the second and fourth call nobody
    assert class_prompts(prompt_file, 9) == (*hat, *alone)
    assert class_prompts(prompt_file, 3) == (*hat, alone[0])
    assert class_prompts(prompt_file, 9, "sampling.num_prompts=2") == tuple(hat)
    assert class_prompts(prompt_file, 0) == ()


def test_prompts_that_never_call_the_person_are_an_error(prompt_file: Path) -> None:
    prompt_file.write_text("a man\na skscraper\n", "utf-8")
    with pytest.raises(
        ConfigError, match="^evaluation.trigger_word=sks: in no prompt of .*prompts"
    ):
        class_prompts(prompt_file, 1)
    assert class_prompts(prompt_file, 0) == ()  # it is not asked for


def test_every_prompt_with_every_seed(prompt_file: Path) -> None:
    config = config_of("lora=a", f"sampling.prompts={prompt_file}", "sampling.num_prompts=2")
    sampling = replace(config.sampling, seeds=[3, 1])
    assert [(prompt.text, prompt.seed) for prompt in prompts(sampling)] == [
        ("a sks man in a hat", 3),
        ("a sks man in a hat", 1),
        ("a hat", 3),
        ("a hat", 1),
    ]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_text("", "utf-8")
    check_evaluation(config_of(f"lora={file}"))
    missing = tmp_path / "missing"
    for given, message in (
        ([f"lora=[{file},{missing}]"], f"^lora={missing}: no such file or folder$"),
        ([f"images={missing}"], f"^images={missing}: no such file or folder$"),
        ([f"lora={file}", f"data.root={missing}"], f"^data.root={missing}: no such folder; name"),
        ([f"lora={file}", f"data.root={file}"], f"^data.root={file}: no such folder; name"),
        (
            [f"lora={file}", f"evaluation.references={missing}"],
            f"^evaluation.references={missing}: no such folder",
        ),
        ([f"run={tmp_path}"], f"^run={tmp_path}: holds no checkpoint; give a folder that train"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_evaluation(config_of(*given))
    check_evaluation(config_of(f"run={tmp_path}", f"images={tmp_path}"))  # no adapter is needed
