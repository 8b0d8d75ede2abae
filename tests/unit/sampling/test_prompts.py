"""Prompts: as a person wrote them, with every seed, and with the class word."""

from pathlib import Path

import pytest

from sdlora.cli.composition import to_typed
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.sampling.prompts import (
    Prompt,
    picture_name,
    prior_prompts,
    prompts_of,
    read_prompts,
    with_class_word,
)
from tests.composed import composed_train
from tests.sampling import sampling_config

WORDS = ("evaluation.trigger_word=sks", "evaluation.class_word=man")


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a sks man in a hat\na hat\na sks in a hat\na man in a hat\nsks\n", "utf-8")
    return path


def class_prompts(path: Path, num: int, *given: str) -> tuple[Prompt, ...]:
    composed = composed_train(
        *(f"sampling.prompts={path}", "sampling.seeds=[7,8]"),
        *(f"evaluation.prior_prompts={num}", *WORDS, *given),
    )
    config = to_typed(composed, TrainConfig)
    return prior_prompts(config.sampling, config.evaluation)


def test_the_first_prompts_that_call_the_person_call_the_class(prompt_file: Path) -> None:
    hat = [Prompt("a man in a hat", seed) for seed in (7, 8)]
    alone = [Prompt("man", seed) for seed in (7, 8)]
    # the first and the third prompt are one when reworded; the second and fourth call nobody
    assert class_prompts(prompt_file, 9) == (*hat, *alone)
    assert class_prompts(prompt_file, 3) == (*hat, alone[0])
    assert class_prompts(prompt_file, 9, "sampling.num_prompts=2") == tuple(hat)
    assert class_prompts(prompt_file, 0) == ()


def test_a_list_is_the_prompts_themselves() -> None:
    sampling = sampling_config(
        prompts=["a man  in snow", 7, "one, two"], num_prompts=None, seeds=[3]
    )
    assert [each.text for each in prompts_of(sampling)] == ["a man in snow", "7", "one, two"]
    for wrong in ([], ["a man", " "], [["nested"]], {"a": 1}, 7):
        with pytest.raises(ConfigError, match=r"^sampling\.prompts="):
            sampling_config(prompts=wrong)


def test_prompts_that_never_call_the_person_are_an_error(prompt_file: Path) -> None:
    prompt_file.write_text("a man\na skscraper\n", "utf-8")
    with pytest.raises(
        ConfigError, match="^evaluation.trigger_word=sks: in no prompt of .*prompts"
    ):
        class_prompts(prompt_file, 1)
    assert class_prompts(prompt_file, 0) == ()  # it is not asked for


def test_every_prompt_with_every_seed(prompt_file: Path) -> None:
    sampling = sampling_config(prompts=str(prompt_file), num_prompts=2, seeds=[3, 1])
    assert [(prompt.text, prompt.seed) for prompt in prompts_of(sampling)] == [
        ("a sks man in a hat", 3),
        ("a sks man in a hat", 1),
        ("a hat", 3),
        ("a hat", 1),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sks man", "man"),
        ("a photo of sks man in a hat", "a photo of man in a hat"),
        ("a photo of sks in a hat", "a photo of man in a hat"),
        ("SKS Man", "man"),  # any case
        ("(sks), sks man; sks.", "(man), man; man."),
        ("sks\n  man", "man"),
        ("sks, man", "man, man"),  # not side by side
        ("sks manual", "man manual"),  # the noun is a word of its own, too
        ("sks sks man", "man man"),
        ("skscraper, asks and task_sks", "skscraper, asks and task_sks"),
        ("a man", "a man"),
        ("", ""),
    ],
)
def test_the_class_word_stands_for_the_trigger_word(text, expected):
    assert with_class_word(text, "sks", "man") == expected


def test_words_are_no_patterns():
    assert with_class_word("a c.t (x) and a cat", "c.t", "dog") == "a dog (x) and a cat"
    assert with_class_word("<sks> in <sks> a+b", "<sks>", "a+b") == "a+b in a+b"
    assert with_class_word("sks", "sks", r"\1 \g<0>") == r"\1 \g<0>"
    assert with_class_word("[v] old man", "[V]", "old man") == "old man"


@pytest.mark.parametrize("words", [(None, None), (None, "man"), ("", "man"), ("sks", None)])
def test_without_both_words_a_prompt_stays_as_it_is(words):
    assert with_class_word("sks man", *words) == "sks man"


def test_prompts_are_read_as_a_person_wrote_them(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\r\n   \n  ein Hütchen \n".encode())
    assert read_prompts(path) == ["a cat", "ein Hütchen"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), (b" \n\n", "no prompt"), (b"ab\xe9 c", "not UTF-8 at byte 2")],
)
def test_prompt_file_errors_name_the_file(tmp_path: Path, content, words):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        read_prompts(path)
    assert "prompts.txt" in str(error.value)


def test_no_prompt_chooses_a_path():
    name = picture_name(7, "../../etc/passwd")
    assert name.startswith("007-")
    assert name.endswith(".png")
    assert "/" not in name
    assert picture_name(7, "a") != picture_name(7, "b")
