"""Keys that find nothing to act on in pictures and captions."""

from dataclasses import replace
from typing import Any

import pytest

from sdlora.data.pictures.picture import Picture
from sdlora.data.sheet.unused_keys import unused_keys
from tests.configs import data_config

PLAIN = Picture("a.png", (64, 64), "a hat", "0" * 64)

CASES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # keys, what a picture must have for them, and how the finding names them
    ({"mask_weight": 0.5}, {"mask_content": "1" * 64}, "data.mask_weight=0.5"),
    ({"wildcards": True}, {"text": "{a|b} hat"}, "data.captions.wildcards=true"),
    ({"lines": "random"}, {"text": "a\nb"}, "data.captions.lines=random"),
    ({"tags": True, "shuffle": True}, {"text": "a, b"}, "data.captions.shuffle=true"),
]


@pytest.mark.parametrize(("keys", "needed", "named"), CASES)
def test_a_key_needs_something_to_act_on(
    keys: dict[str, Any], needed: dict[str, Any], named: str
) -> None:
    own = "mask_weight" in keys
    data = data_config(**keys) if own else data_config(captions=keys)
    [found] = unused_keys([PLAIN, PLAIN], data)
    assert found.name == named
    assert found.severity == "warning"
    assert list(unused_keys([PLAIN, replace(PLAIN, **needed)], data)) == []


def test_what_is_off_is_not_named() -> None:
    assert list(unused_keys([PLAIN], data_config())) == []
    assert list(unused_keys([], data_config(mask_weight=0.5))) == []
