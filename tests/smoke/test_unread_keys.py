"""What a run never reads is declared to have no effect in it, so that no key is forgotten."""

import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from sdlora.config.effect import (
    COMMAND,
    MULTIRUN,
    TRAIN,
    declared_conditions,
    reason_without_effect,
)
from sdlora.config.keys import ANY_NAME, all_fields, as_written, flat, groups_by_name
from sdlora.config.train import TrainConfig
from tests.smoke.conftest import TrainHere
from tests.unit.commands.train.shown_runs import typed

NO_USE = {
    *("__post_init__", "check", "check_family_limits", "check_optimizer"),
    *("training_notes", "unused_in_training"),
    *("asdict", "_asdict_inner", "replace", "__eq__"),
}
"""Functions that look at values, or hand them on, and do not use them."""

BY_INTERPOLATION = "model.recommended."
"""Keys that ``conf/`` alone reads."""

REFUSED = {
    *("data.buckets.sizes", "data.captions.keep_tokens", "data.class_word"),
    *("objective.weighting", "objective.weight_table", "objective.timesteps.shift_points"),
    "optim.transformer_lr",
}
"""Keys that are an error where they would have no effect."""

Name = tuple[type, str]


class Noted:
    """A field of a config class that notes whether its value is used."""

    def __init__(self, slot: Any, name: Name, used: set[Name]) -> None:
        self.slot, self.name, self.used = slot, name, used

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        if self.name not in self.used:
            frame: Any = sys._getframe(1)
            while frame is not None and frame.f_code.co_name not in NO_USE:
                frame = frame.f_back
            if frame is None:
                self.used.add(self.name)
        return self.slot.__get__(instance, owner)

    def __set__(self, instance: object, value: object) -> None:
        self.slot.__set__(instance, value)


def classes(schema: Any) -> Iterator[type]:
    """The dataclasses of a schema."""
    yield schema
    for kind in get_type_hints(schema).values():
        if is_dataclass(kind):
            yield from classes(kind)
    if named := groups_by_name(schema):
        yield named[1]


def class_of(key: str) -> type:
    """The dataclass that has the field of a key."""
    kinds = {name: kind for name, _, kind in all_fields(TrainConfig)}
    group = key.rpartition(".")[0]
    kind: type = kinds[group] if group else TrainConfig
    return kind


@pytest.mark.parametrize(
    "options", [(), ("lora=full", "scheduler=constant", "data.cache.mode=off")]
)
def test_what_is_never_used_is_declared(
    options: tuple[str, ...], train_here: TrainHere, tmp_path: Path, monkeypatch: Any
) -> None:
    used: set[Name] = set()
    for kind in set(classes(TrainConfig)):
        for item in fields(kind):
            slot = Noted(getattr(kind, item.name), (kind, item.name), used)
            monkeypatch.setattr(kind, item.name, slot)
    short = ("trainer.max_steps=2", "sampling.num_steps=2", "sampling.num_prompts=2")
    train_here(f"run_dir={tmp_path / 'run'}", *short, *options)
    monkeypatch.undo()
    config = typed(options, {"trainer.max_steps": 2})
    values = {**flat(as_written(config)), COMMAND: TRAIN, MULTIRUN: False}
    declared = dict(declared_conditions(TrainConfig))
    forgotten = []
    for key, item, kind in all_fields(TrainConfig):
        is_used = (class_of(key), item.name) in used or key.startswith(BY_INTERPOLATION)
        if is_dataclass(kind) or is_used or key in REFUSED:
            continue
        own = key.replace(ANY_NAME, "unet")
        if reason_without_effect(declared, {**values, own: 1}, own) is None:
            forgotten.append(key)
    assert " ".join(forgotten) == ""
