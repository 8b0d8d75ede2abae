"""Notes on keys that were set by hand and have no effect in this run, by name."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sdlora.config.effect import (
    COMMAND,
    EVALUATE,
    GRID,
    MULTIRUN,
    OFF,
    SEARCH,
    TAKERS,
    TRAIN,
    declared_conditions,
    reason_without_effect,
)
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.keys import as_written, flat
from sdlora.config.lora import ALPHA_AS_WRITTEN, ALPHA_FOLLOWS
from sdlora.config.train import TrainConfig

Reason = Callable[[str], str | None]
"""Key -> why it has no effect."""

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def unused_in_training(
    config: TrainConfig,
    composed: DictConfig,
    keys_set: Collection[str],
    *,
    is_sweep: bool,
) -> list[str]:
    """A line for each key that this run does not use: key, value, reason and remedy.

    Args:
        config: The whole config.
        composed: The same before its interpolations are resolved: a key whose value others take has
            an effect where one of those has.
        keys_set: The keys that were set by hand.
        is_sweep: Whether the run is one of several.
    """
    from sdlora.models.families import description_of  # heavy; an evaluation needs none of it

    description = description_of(config.model.family)
    written = as_written(config)
    declared = dict(declared_conditions(TrainConfig))
    others = set(config.lora.parts) - set(description.trainable)
    every = flat(written)
    plain = _as_composed(composed)
    takers = _takers(plain)
    values = {
        **{key: value for key, value in every.items() if not _is_of(key, others)},
        COMMAND: TRAIN,
        MULTIRUN: GRID if is_sweep else False,  # of the sweep itself, its keys are noted there
        ALPHA_AS_WRITTEN: plain.get("lora.alpha"),
    }

    def reason(key: str) -> str | None:
        if _is_of(key, others) and every.get(key) not in OFF:
            part = key.split(".")[1]
            return f"{description.kind} trains no {part}; leave it out"
        own = {TAKERS: _with_effect(takers.get(key, ()), reason, takers)}
        return reason_without_effect(declared, {**values, **own}, key)

    return list(_lines(keys_set, every, reason, takers))


def unused_in_evaluation(
    config: EvaluateConfig, composed: DictConfig, keys_set: Collection[str]
) -> list[str]:
    """As :func:`unused_in_training`, for an evaluation."""
    declared = dict(declared_conditions(EvaluateConfig))
    values = {**flat(as_written(config)), COMMAND: EVALUATE}
    takers = _takers(_as_composed(composed))

    def reason(key: str) -> str | None:
        own = {TAKERS: _with_effect(takers.get(key, ()), reason, takers)}
        return reason_without_effect(declared, {**values, **own}, key)

    return list(_lines(keys_set, values, reason, takers))


def unused_in_sweep(config: DictConfig, keys_set: Collection[str], *, is_search: bool) -> list[str]:
    """As :func:`unused_in_training`, for the keys of a sweep itself, which its cells do not have.

    Args:
        config: The composed config of the sweep.
        keys_set: The keys that were set by hand.
        is_search: Whether it is a search.
    """
    declared = dict(declared_conditions(TrainConfig))
    values = {
        **_as_composed(config),
        "evaluation.every_n_steps": config.evaluation.every_n_steps,  # of the model
        COMMAND: TRAIN,
        MULTIRUN: SEARCH if is_search else GRID,
    }

    def reason(key: str) -> str | None:
        return reason_without_effect(declared, values, key)

    own = [key for key in keys_set if key.startswith("sweep.")]
    return list(_lines(own, values, reason, {}))


def _is_of(key: str, parts: Collection[str]) -> bool:
    """Whether a key is of one of these parts of the model."""
    names = key.split(".")
    return names[0] == "lora" and len(names) > 2 and names[1] in parts


def _as_composed(composed: DictConfig) -> dict[str, Any]:
    """The values, flat, with their interpolations as they are written."""
    plain = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(plain, dict)
    return flat({str(name): each for name, each in plain.items()})


def _takers(plain: Mapping[str, Any]) -> dict[str, list[str]]:
    """Key -> the keys that take its value, by interpolation."""
    found: dict[str, list[str]] = {}
    for key, value in plain.items():
        if key == "lora.alpha" and value == ALPHA_FOLLOWS:
            continue  # it counts by its size beside the rank alone, which the rank does not change
        for taken in _REFERENCE.findall(value) if isinstance(value, str) else ():
            found.setdefault(taken, []).append(key)
    return found


def _lines(
    keys_set: Collection[str],
    values: Mapping[str, Any],
    reason: Reason,
    takers: Mapping[str, list[str]],
) -> Iterator[str]:
    for key in keys_set:
        found = reason(key)
        if found is None or _with_effect(takers.get(key, ()), reason, takers):
            continue
        shown = f"={values[key]}" if key in values else ""
        yield f"{key}{shown} has no effect: {found}"


def _with_effect(
    keys: Collection[str], reason: Reason, takers: Mapping[str, list[str]]
) -> list[str]:
    """Those of these keys that have an effect, by themselves or by those that take their value."""
    return [
        key
        for key in keys
        if reason(key) is None or _with_effect(takers.get(key, ()), reason, takers)
    ]
