"""Epochs of the config -> optimizer steps, once the number of batches of an epoch is known."""

import math
from dataclasses import replace

from sdlora.assembly.data_source import is_streamed
from sdlora.config.epochs import EPOCH_KEYS
from sdlora.config.rules import require
from sdlora.config.train import TrainConfig
from sdlora.data.batches.plan import plan_of
from sdlora.data.selection.picture_set import PictureSet
from sdlora.runtime.progress import Progress


def check_epochs(config: TrainConfig) -> None:
    """Refuse epochs of a stream, whose number of batches is not known.

    Raises:
        ConfigError: Naming the key, and the one of steps.
    """
    for key, steps in EPOCH_KEYS.items():
        value = _value(config, key)
        require(
            value is None or not is_streamed(config.data),
            key,
            value,
            f"a streamed set has no epochs of batches; set it to null, and {steps}",
        )


def in_steps(config: TrainConfig, pictures: PictureSet, progress: Progress) -> TrainConfig:
    """The config with its epochs as steps, and printed; a run's stored config has steps only.

    Args:
        config: With the batches that the run trains with.
        pictures: The training pictures; with ``data.on_error=skip`` some may turn out to be
            unreadable later, which does not change the steps.
        progress: Prints.
    """
    given = {key: each for key in EPOCH_KEYS if (each := _value(config, key)) is not None}
    if not given or not pictures.geometry:  # a run without pictures is refused by its own message
        return config
    batches = plan_of(pictures, config.data.batch_size, config.seed).batches_per_epoch
    trainer = config.trainer
    window = trainer.accumulate_grad_batches * trainer.devices * trainer.num_nodes
    for key, epochs in given.items():
        steps = max(1, math.ceil(round(epochs * batches / window, 6)))
        progress.print(
            f"{key}={epochs:g} is {EPOCH_KEYS[key]}={steps}: {batches} batches an epoch, {window} "
            "in a step"
        )
        config = _with_steps(config, key, steps)
    return config


def _value(config: TrainConfig, key: str) -> float | None:
    group, _, name = key.partition(".")
    value: float | None = getattr(getattr(config, group), name)
    return value


def _with_steps(config: TrainConfig, key: str, steps: int) -> TrainConfig:
    group, _, name = key.partition(".")
    own = EPOCH_KEYS[key].partition(".")[2]
    changed = replace(getattr(config, group), **{name: None, own: steps})
    return replace(config, **{group: changed})
