"""The group ``data``: a value that cannot work is named with its key and a remedy."""

from typing import Any

import pytest

from sdlora.config.data import RootConfig
from sdlora.config.rules import ConfigError
from tests.configs import captions_config, data_config, filters_config, hub_config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min_width", 0),
        ("min_height", -1),
        ("min_area_px", 0),
        ("min_aspect", 0.0),
        ("max_aspect", float("inf")),
        ("max_file_mib", -1.0),
        ("near_duplicates", -1),
        ("near_duplicates", 17),
        ("min_sharpness", float("nan")),
    ],
)
def test_numbers_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.filters\.{key}={value}: must "):
        filters_config(**{key: value})


def test_an_empty_range_of_aspects() -> None:
    with pytest.raises(
        ConfigError, match=r"min_aspect=2: must not exceed data.filters.max_aspect=1"
    ):
        filters_config(min_aspect=2, max_aspect=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lines": "last"}, r"data\.captions\.lines=last: unknown; .*choices: all, first, random"),
        ({"separator": " "}, r"data\.captions\.separator=' ': needs a visible character"),
        ({"tags": True, "keep_tokens": -1}, r"data\.captions\.keep_tokens=-1"),
        ({"tags": True, "tag_dropout": 1.5}, r"data\.captions\.tag_dropout=1\.5: must be a number"),
        ({"dropout": float("nan")}, r"data\.captions\.dropout=nan: must be a number"),
        ({"shuffle": True}, r"data\.captions\.shuffle=True: works on tags; set .*tags=true"),
        ({"keep_tokens": 1}, r"data\.captions\.keep_tokens=1: works on tags"),
        ({"tag_dropout": 0.1}, r"data\.captions\.tag_dropout=0\.1: works on tags"),
    ],
)
def test_impossible_recipes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        captions_config(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_pictures": 0}, r"^data\.num_pictures=0: must be a whole number >= 1"),
        ({"num_workers": -1}, r"^data\.num_workers=-1: must be a whole number >= 0"),
        ({"batch_size": 0}, r"^data\.batch_size=0: must be a whole number >= 1"),
        ({"on_error": "ignore"}, r"^data\.on_error=ignore: unknown; choices: raise, skip"),
        ({"background": "white"}, r"^data\.background=white: write a colour as #rrggbb"),
        ({"mask_weight": 1.0}, r"^data\.mask_weight=1\.0: must be a number in \[0, 1\)"),
        ({"crop": "random"}, r"^data\.crop=random: .* needs data\.cache=off"),
        ({"trigger_word": " ,"}, r"^data\.trigger_word=' ,': needs a visible character"),
        ({"class_word": "man"}, r"^data\.class_word=man: has no effect without data\.trigger_word"),
        (
            {"prior": {"mode": "class"}},
            r"^data\.prior\.prompt=: say what .* data\.class_word, ",
        ),
        (
            {
                "source": "hub",
                "trigger_word": "sks",
                "hub": {"streaming": True},
                "cache": {"mode": "off"},
            },
            r"^data\.trigger_word=sks: is not put .* null, and data\.captions\.prefix='sks, '$",
        ),
        (
            {
                "source": "hub",
                "val_fraction": 0.1,
                "hub": {"streaming": True},
                "cache": {"mode": "off"},
            },
            r"^data\.val_fraction=0\.1: cannot be held out of a streamed set; set it to 0, and",
        ),
    ],
)
def test_values_of_the_group_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data_config(**changes)


def test_counts_of_roots_and_streams() -> None:
    with pytest.raises(ConfigError, match=r"^data\.roots\.repeats=0: must be a whole number >= 1"):
        RootConfig(path="photos", repeats=0)
    with pytest.raises(ConfigError, match=r"^data\.hub\.shuffle_buffer=0: must be a whole number"):
        hub_config(shuffle_buffer=0)
