"""The trigger word: in every caption and prompt once, and never in those of the class."""

from pathlib import Path

import pytest
from PIL import Image

from sdlora.assembly.training_pictures import held_out_pictures, training_pictures
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.data.captions.recipe import static_caption
from sdlora.data.captions.trigger_word import has_word, with_trigger_word
from sdlora.data.sources.picture_source import PictureSource
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import prior_prompts, prompts_of
from tests.composed import evaluate_config, train_config


def typed(*given: str) -> TrainConfig:
    return train_config(*given)


def write(folder: Path, **captions: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, text) in enumerate(captions.items()):
        Image.new("RGB", (64 + number, 64), "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(text, "utf-8")
    return folder


def captions_of(config: TrainConfig, source: PictureSource) -> list[str]:
    recipe = config.data.captions
    return [static_caption(recipe, each.text, each.prefix) for each in source.pictures]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a man", "sks, a man"),
        ("a sks man", "a sks man"),
        ("Sks, a man", "Sks, a man"),
        ("a skscraper", "sks, a skscraper"),
        ("", "sks"),
    ],
)
def test_it_is_put_in_front_where_it_is_not(text: str, expected: str) -> None:
    assert with_trigger_word(text, "sks") == expected
    assert with_trigger_word(text, None) == text
    assert has_word(expected, "sks")


def test_one_key_reaches_captions_prompts_scores_and_prior(tmp_path: Path) -> None:
    photos = write(tmp_path / "photos", a="a man", b="a photo of sks", c="one\ntwo")
    write(photos / "held_out", d="another man")
    of_class = write(tmp_path / "class", k="unused")
    (of_class / "k.txt").unlink()
    (tmp_path / "prompts.txt").write_text("a hat\nsks in a hat\n", "utf-8")
    config = typed(
        f"data.root={photos}",
        *("data.trigger_word=sks", "data.class_word=man", "evaluation.prior_prompts=1"),
        *("data.prior.mode=class", f"data.prior.root={of_class}"),
        *("data.cache.mode=memory", f"sampling.prompts={tmp_path / 'prompts.txt'}"),
    )
    progress = Progress(enabled=False)
    found = training_pictures(config.data, config.model, tmp_path, progress, is_check=False)
    assert captions_of(config, found.source) == [
        *("sks, a man", "a photo of sks", "sks, one two"),
        "a photo of a man",  # of the class
    ]
    unseen = held_out_pictures(config.data, config.model, progress)
    assert unseen is not None
    assert captions_of(config, unseen.source) == ["sks, another man"]
    assert config.data.prior.prompt == "a photo of a man"
    assert [each.text for each in prompts_of(config.sampling)] == ["sks, a hat", "sks in a hat"]
    [of_prior] = prior_prompts(config.sampling, config.evaluation)
    assert of_prior.text == "man, a hat"


def test_a_prefix_that_has_it_is_enough(tmp_path: Path) -> None:
    photos = write(tmp_path / "photos", a="a man")
    given = [f"data.root={photos}", "data.trigger_word=sks", "data.cache.mode=memory"]
    config = typed(*given, "data.captions.prefix='photo of sks:'")
    progress = Progress(enabled=False)
    found = training_pictures(config.data, config.model, tmp_path, progress, is_check=False)
    assert captions_of(config, found.source) == ["photo of sks: a man"]


def test_without_it_nothing_changes(tmp_path: Path) -> None:
    config = typed("data.root=photos")
    assert (config.data.prior.prompt, config.sampling.trigger_word) == ("", None)
    assert (config.evaluation.trigger_word, config.evaluation.class_word) == (None, None)


def test_what_is_set_for_one_of_them_wins() -> None:
    given = ["data.trigger_word=sks", "data.class_word=man"]
    config = typed("data.root=photos", *given, "sampling.trigger_word=null")
    assert config.sampling.trigger_word is None
    assert config.evaluation.trigger_word == "sks"


def test_evaluate_has_the_same_keys() -> None:
    config = evaluate_config("lora=a", "data.trigger_word=sks", "data.class_word=man")
    assert config.sampling.trigger_word == "sks"
    assert (config.evaluation.trigger_word, config.evaluation.class_word) == ("sks", "man")


def test_a_run_brings_its_own_words() -> None:
    with pytest.raises(ConfigError) as error:
        evaluate_config("run=x", "data.trigger_word=sks")
    assert str(error.value) == (
        "data.trigger_word=sks: a run brings its own words; leave it out, or set "
        "evaluation.trigger_word"
    )
    assert evaluate_config("run=x", "evaluation.trigger_word=sks").evaluation.trigger_word == "sks"
