"""Typed configs of a command line, as the programs have them."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from sdlora.cli.arguments import prepared_arguments
from sdlora.cli.composition import register_evaluate, register_schemas, to_typed
from sdlora.cli.stored_config import OVERLAYS
from sdlora.config.evaluate import EvaluateConfig


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


def composed_evaluate(*given: str) -> DictConfig:
    """What Hydra makes of the command line of ``evaluate.py``."""
    register_schemas()
    with store_left_as_found(), initialize(config_path=None, version_base="1.3"):
        register_evaluate()
        return compose("evaluate", ["run_dir=here", *prepared_arguments(given, EvaluateConfig)])


def evaluate_config(*given: str) -> EvaluateConfig:
    """The config of ``evaluate.py``; what a run brings is not in it."""
    return to_typed(composed_evaluate(*given), EvaluateConfig)
