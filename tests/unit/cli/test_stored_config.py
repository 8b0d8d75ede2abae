"""A stored config is plain data under what the command line gives."""

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from sdlora.cli.composition import to_typed
from sdlora.cli.stored_config import laid_under, literal
from sdlora.config.keys import as_written
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from tests.composed import composed_train


def composed(*given: str) -> DictConfig:
    found = composed_train(*given)
    OmegaConf.update(found, "run_dir", "run")
    return found


def stored_of(*given: str) -> dict[str, Any]:
    return as_written(to_typed(composed(*given), TrainConfig))


def laid(stored: dict[str, Any], *given: str) -> TrainConfig:
    return to_typed(laid_under(composed(*given), stored, given, "resume=R"), TrainConfig)


def test_every_value_comes_back_and_what_is_given_wins() -> None:
    stored = stored_of(
        *("lora.r=4", "lora.unet.rank_pattern={mid_block:2}", "++optim.options={eps:1e-6}"),
        *("trainer.max_steps=7", "data.root='my photos'", "evaluation=none", "seed=5"),
    )
    assert as_written(laid(stored)) == stored
    longer = as_written(laid(stored, "trainer.max_steps=9", "seed=6"))
    assert (longer["trainer"].pop("max_steps"), longer.pop("seed")) == (9, 6)
    assert (stored["trainer"].pop("max_steps"), stored.pop("seed")) == (7, 5)
    assert longer == stored


def test_a_given_group_replaces_the_stored_one() -> None:
    stored = stored_of("++optim.options={eps:1e-6}", "optim.unet_lr=0.5")
    assert laid(stored).optim.options == {"weight_decay": 0.01, "eps": 1e-6}
    assert laid(stored, "optimizer=adamw").optim == to_typed(composed(), TrainConfig).optim


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "\\${seed}", "\\\\${seed}", "a ${ b", "a\\"])
def test_an_interpolation_in_a_stored_value_is_text(text: str) -> None:
    stored = stored_of()
    stored["sampling"]["negative_prompt"] = text
    stored["evaluation"]["clip"]["options"] = {"model": text}
    config = laid(stored)
    assert config.sampling.negative_prompt == text
    assert config.evaluation.clip.options == {"model": text}


def test_literal_reaches_into_lists_and_mappings() -> None:
    value = {"a": ["${b}", {"c": "${d}"}], "e": 1, "f": None}
    assert OmegaConf.to_container(OmegaConf.create(literal(value)), resolve=True) == value


def test_unknown_keys_and_overlays_are_refused() -> None:
    stored = stored_of()
    stored["hydra"] = {"callbacks": {"x": {"_target_": "os.system"}}}
    with pytest.raises(ConfigError, match=r"resume=R: made with .*unknown here: hydra.callbacks.x"):
        laid(stored)
    with pytest.raises(ConfigError, match="experiment=person: an overlay under resume=R; give"):
        laid(stored_of(), "experiment=person", "data.root=photos")
