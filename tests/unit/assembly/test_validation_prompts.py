"""Prompts that are captions: which pictures', how many, and how they read."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from sdlora.assembly.validation_prompts import validation_prompts
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.data.pictures.picture import Picture
from sdlora.data.sources.picture_source import CLASS_PICTURES
from tests.composed import train_config


def typed(*given: str) -> TrainConfig:
    arguments = ["sampling.prompts=captions", *given]
    return train_config(*arguments)


def pictures(*texts: str, name: str = "{}.png") -> Any:
    found = [Picture(name.format(n), (64, 64), text, "00") for n, text in enumerate(texts)]
    return SimpleNamespace(source=SimpleNamespace(pictures=found))


def drawn(training: Sequence[str], held_out: Sequence[str] | None, *given: str) -> list[str]:
    unseen = None if held_out is None else pictures(*held_out)
    found = validation_prompts(typed(*given), pictures(*training), unseen)
    return [prompt.text for prompt in found.drawn]


def test_held_out_captions_come_first() -> None:
    assert drawn(["a"], ["b", "c"]) == ["b", "c"]
    assert drawn(["a"], None) == ["a"]
    assert drawn(["a"], []) == ["a"]
    assert drawn(["a"], ["", " "]) == ["a"]  # held-out pictures need no captions


def test_each_is_drawn_once_in_order_and_in_one_line() -> None:
    assert drawn(["b", "a", "b", " a \n man", ""], None) == ["b", "a", "a man"]


def test_how_many() -> None:
    many = [str(number) for number in range(12)]
    assert drawn(many, None) == many[:8]
    assert drawn(many, None, "sampling.num_prompts=10") == many[:10]
    assert drawn(many, None, "sampling.num_prompts=2") == many[:2]
    assert len(drawn(many, None, "sampling.seeds=[1,2]")) == 16


def test_they_read_as_in_training_without_what_chance_leaves_out() -> None:
    recipe = ["data.captions.prefix='zwk '", "data.captions.suffix=', photo'"]
    assert drawn(["a man"], None, *recipe) == ["zwk a man, photo"]
    lines = ["data.captions.lines=first", "data.captions.dropout=0.9"]
    assert drawn(["a man\na hat"], None, *lines) == ["a man"]
    tags = [
        "data.captions.tags=true",
        "data.captions.shuffle=true",
        "data.captions.tag_dropout=0.9",
    ]
    assert drawn(["a, b, c, d, e"], None, *tags) == ["a, b, c, d, e"]


def test_a_prefix_of_both_is_said_once() -> None:
    both = ["data.captions.prefix='zwk, '", "sampling.prompt_prefix='zwk, '"]
    assert drawn(["a man"], None, *both) == ["zwk, a man"]
    found = validation_prompts(typed(*both), pictures("a man"), None)
    assert list(found.captions) == ["a man"]  # as a prompt file would have it
    assert drawn(["a man"], None, "sampling.prompt_prefix='zwk, '") == ["zwk, a man"]
    assert drawn(["apple"], None, "sampling.prompt_prefix='a '") == ["a apple"]


def test_class_pictures_are_not_asked() -> None:
    own = pictures("a man")
    own.source.pictures += pictures("a person", name=CLASS_PICTURES + "{}.png").source.pictures
    found = validation_prompts(typed(), own, None)
    assert [prompt.text for prompt in found.drawn] == ["a man"]


def test_without_any_caption_the_remedy_is_named() -> None:
    with pytest.raises(ConfigError, match="^sampling.prompts=captions: no picture .* text file"):
        drawn(["", " "], None)


def test_the_class_word_replaces_the_trigger_word() -> None:
    words = ["evaluation.trigger_word=sks", "evaluation.class_word=man"]
    found = validation_prompts(
        typed(*words, "evaluation.prior_prompts=1"), pictures("a sks man", "sks"), None
    )
    assert [prompt.text for prompt in found.prior] == ["a man"]
    with pytest.raises(ConfigError, match="^evaluation.trigger_word=sks: in no prompt of captions"):
        validation_prompts(typed(*words, "evaluation.prior_prompts=1"), pictures("a cat"), None)


def test_a_file_needs_no_captions() -> None:
    found = validation_prompts(typed("sampling.prompts=example:prompts.txt"), pictures(), None)
    assert (len(found.drawn), found.captions) == (25, ())
