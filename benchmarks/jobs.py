"""A training job from overrides, as ``train.py`` puts it together, without the command line."""

from pathlib import Path

from hydra import compose, initialize_config_dir

from sdlora.assembly import checks
from sdlora.assembly.job import TrainingJob
from sdlora.assembly.parts import trainer
from sdlora.assembly.training import training_job
from sdlora.assembly.workshop import Workshop
from sdlora.command_line import CONF, opened_shortcuts, quoted, register_schemas, to_typed
from sdlora.config import TrainConfig
from sdlora.progress import Progress


def train_config(overrides: list[str], run: Path) -> TrainConfig:
    """The config of ``python train.py OVERRIDES run_dir=RUN``."""
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", [*opened_shortcuts(overrides), f"run_dir={quoted(str(run))}"])
    config = to_typed(composed, TrainConfig)
    checks.check(config)
    return config


def job(overrides: list[str], run: Path, progress: Progress) -> TrainingJob:
    """That run, ready to fit, its cache filled; the folder is made."""
    run.mkdir(parents=True)
    config = train_config(overrides, run)
    return training_job(config, run, progress, Workshop(), trainer(config, run))
