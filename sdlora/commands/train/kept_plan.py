"""What a run's plan of memory chose, kept in its folder: a resumed run has the same batches."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdlora.config.keys import flat
from sdlora.config.train import TrainConfig
from sdlora.runs.partial_files import mapping
from sdlora.runs.run_config import read_asked, read_config


def settings_of_training(config: TrainConfig) -> dict[str, Any]:
    """The settings of a plan that weights depend on, by key."""
    return {
        "data.batch_size": config.data.batch_size,
        "trainer.accumulate_grad_batches": config.trainer.accumulate_grad_batches,
        "model.quantise": config.model.quantise,
    }


def asked(config: TrainConfig, planned: TrainConfig) -> dict[str, Any]:
    """What the config says of the settings that the plan has changed."""
    before, now = settings_of_training(config), settings_of_training(planned)
    return before if before != now else {}


def as_asked(folder: Path) -> dict[str, Any]:
    """The config of a run's folder, before its plan of memory changed it.

    Raises:
        RunFolderError: If the folder's config cannot be read.
    """
    config, _ = read_config(folder)
    for key, value in read_asked(folder).items():
        group, _, name = key.partition(".")
        config[group] = {**mapping(config.get(group)), name: value}
    return config


def as_planned_before(config: TrainConfig, folder: Path) -> TrainConfig:
    """The config of a resumed run with what its first plan chose, if it asks for the same.

    Raises:
        RunFolderError: If the folder's config cannot be read.
    """
    if settings_of_training(config) != read_asked(folder):
        return config
    stored: Mapping[str, Any] = flat(read_config(folder)[0])
    data, trainer, model = (stored[key] for key in settings_of_training(config))
    return replace(
        config,
        data=replace(config.data, batch_size=data),
        trainer=replace(config.trainer, accumulate_grad_batches=trainer),
        model=replace(config.model, quantise=model),
    )
