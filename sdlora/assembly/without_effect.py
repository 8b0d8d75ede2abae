"""Notes on keys that were set by hand and have no effect in this run, by name."""

from collections.abc import Collection

from sdlora.config.effect import COMMAND, EVALUATE, MULTIRUN, TRAIN, without_effect
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.keys import as_written, flat
from sdlora.config.train import TrainConfig
from sdlora.models.families import description_of

OF_EVERY_DENOISER = ("method", "r", "alpha")
"""Keys of ``lora.unet`` that another denoiser takes from there (``conf/lora/attention.yaml``)."""


def unused_in_training(
    config: TrainConfig, keys_set: Collection[str], *, is_sweep: bool
) -> list[str]:
    """A line for each key that this run does not use: key, value, reason and remedy.

    Args:
        config: The whole config.
        keys_set: The keys that were set by hand.
        is_sweep: Whether the run is one of several.
    """
    description = description_of(config.model.family)
    written = as_written(config)
    others = set(config.lora.parts) - set(description.trainable)
    followed = {f"lora.unet.{name}" for name in OF_EVERY_DENOISER}
    lines, rest = [], []
    for key in keys_set:
        part = key.removeprefix("lora.").partition(".")[0]
        if description.denoiser != "unet" and key in followed:
            continue
        if key.startswith("lora.") and part in others:
            lines.append(f"{key} has no effect: {description.kind} trains no {part}; leave it out")
        else:
            rest.append(key)
    for part in others:
        del written["lora"][part]
    values = {**flat(written), COMMAND: TRAIN, MULTIRUN: is_sweep}
    return lines + list(without_effect(TrainConfig, values, rest))


def unused_in_evaluation(config: EvaluateConfig, keys_set: Collection[str]) -> list[str]:
    """A line for each key that this evaluation does not use: key, value, reason and remedy."""
    values = {**flat(as_written(config)), COMMAND: EVALUATE}
    return list(without_effect(EvaluateConfig, values, keys_set))
