"""A training run from overrides, as ``train.py`` prepares it, without the command line."""

from pathlib import Path

from hydra import compose, initialize_config_dir

from sdlora.assembly.lightning_trainer import trainer
from sdlora.cli.arguments import opened_shortcuts, quoted
from sdlora.cli.composition import register_schemas, to_typed
from sdlora.commands.train import config_checks
from sdlora.commands.train.preparation import prepared
from sdlora.commands.train.training_run import TrainingRun
from sdlora.config.train import TrainConfig
from sdlora.runtime.kept import Kept
from sdlora.runtime.places import CONF
from sdlora.runtime.progress import Progress


def train_config(overrides: list[str], run: Path) -> TrainConfig:
    """The config of ``python train.py OVERRIDES run_dir=RUN``."""
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", [*opened_shortcuts(overrides), f"run_dir={quoted(str(run))}"])
    config = to_typed(composed, TrainConfig)
    config_checks.check(config)
    return config


def prepared_run(
    overrides: list[str], run: Path, progress: Progress, kept: Kept | None = None
) -> TrainingRun:
    """That run, ready to fit, its cache filled; the folder is made.

    Args:
        overrides: Of ``train.py``.
        run: Its folder.
        progress: Prints notes and shows bars.
        kept: The base of an earlier run, taken if it is the same.
    """
    config = train_config(overrides, run)
    run.mkdir(parents=True, exist_ok=config.resume is not None)
    devices = trainer(config.trainer, config.logger, run, progress, skips_layers=False)
    return prepared(config, run, progress, kept or Kept(), devices)
