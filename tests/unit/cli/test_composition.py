"""What happens to a composed config before it is used."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdlora.cli.composition import to_typed
from sdlora.cli.composition_errors import explain, unknown_key, unknown_keys
from sdlora.config.field_words import KEY_OF, WORDS
from sdlora.config.keys import all_keys, schema_key
from sdlora.config.optim import OptimConfig
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.runtime.places import CONF
from tests.composed import composed_train


def test_unknown_keys_are_found_at_every_depth_but_in_options() -> None:
    composed = OmegaConf.create(
        {
            "lora": {"r": 4, "rr": 3, "unet": {"x": {"y": 1}, "r": 2}, "parts": {"vae": {"r": 1}}},
            "optim": {"options": {"a": 1}},
            "z": 1,
        }
    )
    assert unknown_keys(composed, TrainConfig) == {
        "lora.rr": 3,
        "lora.unet.x.y": 1,
        "lora.parts.vae.r": 1,
        "z": 1,
    }


def test_a_product_of_another_value() -> None:
    """In a process that has not composed the config, too: a worker of a sweep gets it composed."""
    given = ["lora.r=12", "lora.alpha='${times:2,${lora.r}}'"]
    composed = composed_train(*given)
    OmegaConf.clear_resolver("times")
    config = to_typed(composed, TrainConfig)
    assert (config.lora.r, config.lora.alpha) == (12, 24.0)


def test_to_typed_names_an_added_key() -> None:
    composed = OmegaConf.create({"name": "adamw", "unet_lr": 1e-3, "text_encoder_lr": 1e-4})
    composed["unet_rl"] = 1
    with pytest.raises(ConfigError, match=r"^unet_rl=1: unknown key; did you mean unet_lr\?"):
        to_typed(composed, OptimConfig)


def test_a_model_file_without_numbers_is_told_where_to_begin() -> None:
    composed = composed_train()
    composed.model.recommended = "???"
    with pytest.raises(OmegaConfBaseException) as error:
        to_typed(composed, TrainConfig)
    told = explain(error.value, TrainConfig, [], [CONF])
    assert told.startswith("model.recommended")
    assert "begin the file of your model with defaults: [sd15], or another option" in told


def test_a_removed_key_that_another_follows_is_named() -> None:
    composed = composed_train("~lora.r")
    with pytest.raises(OmegaConfBaseException) as error:
        to_typed(composed, TrainConfig)
    told = explain(error.value, TrainConfig, ["~lora.r"], [CONF])
    assert told == "lora.r: is needed and cannot be removed"


def test_each_word_of_the_field_is_a_key_here_and_none_is_a_key_itself() -> None:
    known = all_keys(TrainConfig)
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    for word, key in KEY_OF.items():
        assert key in groups or schema_key(key, known) in known, word
        assert word not in known, word
    words = [word for words in WORDS.values() for word in words.split()]
    assert len(words) == len(set(words)), "a word has two meanings"


@pytest.mark.parametrize("word", KEY_OF)
def test_a_word_of_the_field_is_told_its_key(word: str) -> None:
    told = unknown_key(word, "1", TrainConfig, [CONF])
    assert told.startswith(f"{word}=1: unknown key; did you mean {KEY_OF[word]}?")
