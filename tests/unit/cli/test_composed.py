"""The tests' own quick way to a config gives what Hydra composes, errors included."""

from collections.abc import Callable
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from sdlora.cli.composition import register_schemas
from sdlora.runtime.places import CONF
from tests.composed import composed_train

GIVEN = [
    (),
    ("model=sdxl", "lora.unet.r=3", "lora.rank_pattern={a:1}"),
    ("experiment=hw10", "debug=overfit", "optim.unet_lr=1e-3"),
    ("~lora.r", "~logger", "++optim.options={eps:1e-6}"),
    ("data={root:a}", "lora=full", "+lora.unet.free=1"),
    ("lora.r=1,2",),
    ("lora.r=abc",),
    ("lora.rr=1",),
    ("lora=nope",),
]


@pytest.mark.parametrize("given", GIVEN, ids=" ".join)
def test_it_is_what_hydra_composes(given: tuple[str, ...]) -> None:
    def whole(*arguments: str) -> Any:
        register_schemas()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", ["run_dir=here", *arguments])

    expected = end_of(whole, *given)
    assert end_of(composed_train, *given) == expected
    assert end_of(composed_train, *given) == expected  # from what the first time has left


def end_of(composing: Callable[..., Any], *given: str) -> Any:
    """The config, or kind and text of each error that led to the one raised."""
    try:
        return composing(*given)
    except Exception as error:
        chain = [error, error.__cause__]
        return [(type(each), str(each)) for each in chain]
