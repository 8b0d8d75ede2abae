"""A training job from overrides, as ``train.py`` puts it together, without the command line."""

from pathlib import Path

from hydra import compose, initialize_config_dir

from sdlora.assembly.lightning_trainer import trainer
from sdlora.cli.command_line import opened_shortcuts, quoted, register_schemas, to_typed
from sdlora.commands.train import config_checks
from sdlora.commands.train.job import TrainingJob
from sdlora.commands.train.reuse import Workshop
from sdlora.commands.train.training import training_job
from sdlora.config.train import TrainConfig
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


def job(overrides: list[str], run: Path, progress: Progress) -> TrainingJob:
    """That run, ready to fit, its cache filled; the folder is made."""
    run.mkdir(parents=True)
    config = train_config(overrides, run)
    return training_job(config, run, progress, Workshop(), trainer(config, run))
