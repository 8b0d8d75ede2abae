"""Typed configs of a command line, as the programs have them."""

from hydra import compose, initialize
from omegaconf import DictConfig

from sdlora.cli.command_line import (
    prepared_arguments,
    register_evaluate,
    register_schemas,
    to_typed,
)
from sdlora.config.evaluate import EvaluateConfig


def composed_evaluate(*given: str) -> DictConfig:
    """What Hydra makes of the command line of ``evaluate.py``."""
    register_schemas()
    register_evaluate()
    with initialize(config_path=None, version_base="1.3"):
        return compose("evaluate", ["run_dir=here", *prepared_arguments(given, EvaluateConfig)])


def evaluate_config(*given: str) -> EvaluateConfig:
    """The config of ``evaluate.py``; what a run brings is not in it."""
    return to_typed(composed_evaluate(*given), EvaluateConfig)
