"""The files of ``conf/``: each changes its own group only, and together they give every key."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize, initialize_config_dir
from omegaconf import OmegaConf

from sdlora.cli.composition import register_evaluate, register_schemas
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.keys import ANY_NAME, all_keys
from sdlora.config.train import TrainConfig
from sdlora.runtime.places import CONF
from tests.composed import composed_train, store_left_as_found

ACROSS = ("experiment", "debug", "hydra")
"""What goes across groups, by its nature."""

OPTIONS = [path for path in sorted(CONF.glob("*/*.yaml")) if path.parent.name not in ACROSS]
PACKAGE = {"optimizer": "optim", "sweep": "hydra"}
"""Group -> where its values go, if not to the key of that name; a sweep says what Hydra runs."""


def composed(*given: str) -> dict[str, Any]:
    values = OmegaConf.to_container(composed_train(*given), resolve=False)
    assert isinstance(values, dict)
    return values


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_option_file_changes_its_own_group_only(path: Path) -> None:
    group = path.parent.name
    before, after = composed(), composed(f"{group}={path.stem}")
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    own = PACKAGE.get(group, group)
    assert changed <= {own}  # beside ``hydra``, where Hydra says what was chosen
    text = path.read_text("utf-8")
    if group in PACKAGE:
        assert text.startswith(f"# @package {'_global_' if own == 'hydra' else own}\n")
    else:
        assert "@package" not in text


@pytest.mark.parametrize("schema", [TrainConfig, EvaluateConfig])
def test_every_key_has_its_value_in_a_file(schema: type) -> None:
    """Composed without the schema: the default choice of each group names all of its keys."""
    register_schemas()
    with store_left_as_found() as store:
        for name in ("train_schema", "evaluate_schema"):
            store.store(name=name, node={})
        if schema is EvaluateConfig:
            register_evaluate()
            with initialize(config_path=None, version_base="1.3"):
                found = compose("evaluate")
        else:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                found = compose("train")
    values = OmegaConf.to_container(found, resolve=False)
    assert isinstance(values, dict)
    assert [key for key in all_keys(schema) if not stands_in(values, key)] == []


def stands_in(values: Any, key: str) -> bool:
    """Whether a key is there; of a group of any name, in one that is there."""
    name, _, rest = key.partition(".")
    if not name:
        return True
    if not isinstance(values, dict):
        return False
    names = values.keys() if name == ANY_NAME else values.keys() & {name}
    return any(stands_in(values[each], rest) for each in names)
