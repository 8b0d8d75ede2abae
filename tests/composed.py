"""Configs of a command line, as the programs have them."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from hydra import compose, initialize, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict

from sdlora.cli.arguments import prepared_arguments
from sdlora.cli.composition import (
    register_evaluate,
    register_resolvers,
    register_schemas,
    to_typed,
)
from sdlora.cli.stored_config import OVERLAYS
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.train import TrainConfig
from sdlora.runtime.places import CONF

TRAIN_GROUPS = [path.name for path in CONF.iterdir() if path.is_dir()]


def train_config(*given: str) -> TrainConfig:
    """The config of ``train.py``, in the folder ``here``."""
    return to_typed(composed_train(*given), TrainConfig)


def composed_train(*given: str) -> DictConfig:
    """What Hydra makes of the command line of ``train.py``, of which it knows the folder."""
    return _composed(_train, TRAIN_GROUPS, ["run_dir=here", *given])


def evaluate_config(*given: str) -> EvaluateConfig:
    """The config of ``evaluate.py``; what a run brings is not in it."""
    return to_typed(composed_evaluate(*given), EvaluateConfig)


def composed_evaluate(*given: str) -> DictConfig:
    """What Hydra makes of the command line of ``evaluate.py``."""
    arguments = ["run_dir=here", *prepared_arguments(given, EvaluateConfig)]
    return _composed(_evaluate, EvaluateConfig.GROUPS, arguments)


def _composed(
    files: Callable[..., bytes], groups: Sequence[str], given: Sequence[str]
) -> DictConfig:
    """A config whose files are composed once a process, as that takes half a second.

    Keys are set in a copy, by the function with which Hydra sets them in what it has composed.
    """
    register_resolvers()
    choices: list[str] = []
    keys: list[Override] = []
    for item in OverridesParser.create().parse_overrides(list(given)):
        is_key = item.key_or_group not in groups or isinstance(item.value(), dict)
        if is_key and not item.is_sweep_override():  # which Hydra is left to refuse
            keys.append(item)
        else:
            choices.append(str(item.input_line))
    config: DictConfig = pickle.loads(files(*choices))
    ConfigLoaderImpl._apply_overrides_to_config(keys, config)
    with open_dict(config):
        del config["hydra"]
    return config


@cache
def _train(*choices: str) -> bytes:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return pickle.dumps(compose("train", list(choices), return_hydra_config=True))


@cache
def _evaluate(*choices: str) -> bytes:
    register_schemas()
    with store_left_as_found(), initialize(config_path=None, version_base="1.3"):
        register_evaluate()
        return pickle.dumps(compose("evaluate", list(choices), return_hydra_config=True))


@contextmanager
def store_left_as_found() -> Iterator[ConfigStore]:
    """A program registers its own groups only; tests run both programs in one process.

    What Hydra's plugins register when they are found, once a process, stays.
    """
    store = ConfigStore.instance()
    try:
        yield store
    finally:
        for name in ("evaluate.yaml", *EvaluateConfig.GROUPS, *OVERLAYS):
            store.repo.pop(name, None)
        store.repo.get("hydra", {}).pop("help", None)
        register_schemas()
