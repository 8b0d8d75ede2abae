"""Registered schemas, and a composed config -> its checked dataclass."""

import copy
import math
from dataclasses import fields
from typing import TypeVar, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from sdlora.cli.composition_errors import unknown_key, unknown_keys
from sdlora.cli.option_files import file_that_gives
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.keys import open_groups
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.runtime.places import CONF

Config = TypeVar("Config")


def register_schemas() -> None:
    """Register the typed schemas, which the defaults lists name first, and the resolvers."""
    register_resolvers()
    store = ConfigStore.instance()
    store.store(name="train_schema", node=schema_node(TrainConfig))
    store.store(name="evaluate_schema", node=EvaluateConfig)


def register_resolvers() -> None:
    """Register what ``conf/`` computes with, such as ``${times:2,${lora.r}}``.

    ``${either:A,B,C}`` is B where A is given, and C where it is null. ``${pick:A,{a:1,b:2}}`` is
    the table's value of A, or 1: a name that it has not is an error of another key.
    """
    OmegaConf.register_new_resolver("times", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("pick", lambda name, table: table.get(name, 1.0), replace=True)
    OmegaConf.register_new_resolver(
        "filled", lambda form, word: form.format(word) if word else "", replace=True
    )
    OmegaConf.register_new_resolver(
        "either", lambda given, one, other: other if given is None else one, replace=True
    )
    # the first that is known: Hydra has no output folder yet where --cfg shows a config
    OmegaConf.register_new_resolver(
        "first", lambda *values: next(each for each in values if each is not None), replace=True
    )


def register_evaluate() -> None:
    """Register the root file of ``evaluate.py`` and its groups.

    With ``conf/`` itself Hydra would look for ``lora=FILE`` among the options of ``conf/lora``, and
    ``--help`` would list groups that ``evaluate.py`` does not have.
    """
    store = ConfigStore.instance()
    store.store(name="evaluate", node=OmegaConf.load(CONF / "evaluate.yaml"))
    for group in (*EvaluateConfig.GROUPS, "hydra/help"):
        for path in sorted((CONF / group).glob("*.yaml")):
            if f"{group}/{path.stem}" not in EvaluateConfig.REFUSED:
                store.store(name=path.stem, node=OmegaConf.load(path), group=group)


def defaults_of_training() -> DictConfig:
    """The config of training as ``conf/`` composes it, without a command line."""
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train")


def schema_node(schema: type) -> DictConfig:
    """A schema as the node that configs are merged into; groups with free names accept any name."""
    node = OmegaConf.structured(schema)
    for group, (field, _) in open_groups(schema).items():
        node[group] = OmegaConf.structured(get_type_hints(schema)[group])
        OmegaConf.set_struct(node[group], False)
        del node[group][field]
    return node


def to_typed(composed: DictConfig, schema: type[Config]) -> Config:
    """Turn a composed config into its dataclass; every check of the schema runs here, once.

    Raises:
        ConfigError: If it has an unknown key, or an invalid value.
    """
    register_resolvers()  # here, too: workers of a sweep are given a composed config
    for key, value in unknown_keys(composed, schema).items():
        file = file_that_gives(key)
        where = f" in {file}.yaml" if file else ""
        raise ConfigError(unknown_key(key, value, schema, [CONF], where))
    config = OmegaConf.to_object(_with_groups_by_name(composed, schema))
    assert isinstance(config, schema), "the root file's defaults begin with the schema"
    return config


def _with_groups_by_name(composed: DictConfig, schema: type) -> DictConfig:
    """A copy in which groups with free names are typed, in the field for them."""
    whole = copy.deepcopy(composed)
    for group, (field, kind) in open_groups(schema).items():
        node = whole[group]
        own = {item.name for item in fields(get_type_hints(schema)[group])}
        given = {name: node[name] for name in node if name not in own}
        for name, value in given.items():  # in its place, so that an error gives its whole key
            node[name] = OmegaConf.structured(kind)
            node[name].merge_with(value)
        typed = {name: OmegaConf.to_object(node[name]) for name in given}
        for name in given:
            del node[name]
        node[field] = typed
    return whole
