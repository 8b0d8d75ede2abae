"""What a run leaves is used by the next exactly where nothing differs that it depends on.

Every key of the config is changed, one at a time: what of base model, scorer and the base's
pictures the next run makes anew stands below.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdlora.assembly import base_model
from sdlora.assembly.validation_prompts import validation_prompts
from sdlora.commands.train import preparation, reuse
from sdlora.config.train import TrainConfig
from sdlora.evaluation.scoring import Scorer
from sdlora.runtime.kept import Kept
from sdlora.runtime.progress import Progress
from tests.unit.commands.train.shown_runs import ROOTS, keys_of_a_run, typed

BASE, SCORER, PICTURES = "base", "scorer", "pictures"

GROUPS = {
    "model": {BASE, PICTURES},
    "data": {SCORER, PICTURES},  # references and training pictures that it compares with
    "evaluation": {SCORER, PICTURES},
    "sampling": {PICTURES},
}
"""What changes with any key of a group."""

KEYS = {
    "trainer.precision": {BASE, PICTURES},
    "trainer.compile": {BASE, PICTURES},  # what was compiled is not given back
    "lora.unet.method": {BASE, PICTURES},  # as full: then the base itself trains
    "lora.new_word.name": {BASE, PICTURES},
}
"""The same for keys of other groups; what is in neither may differ."""

VALUES = {
    "model.family": "sdxl",
    "lora.unet.method": "full",
    "lora.text_encoder.method": "frozen",
    "lora.text_encoder_2.method": "frozen",
    "data.source": "portraits",
    "sampling.prompts": "{at}/prompts.txt",
    "sampling.num_prompts": 3,
    "sampling.num_seeds": 3,
    "sampling.seeds": [5],
    "trainer.precision": "bf16",
    "evaluation.trigger_word": "glasses",
    "evaluation.class_word": "woman",
    "sampling.trigger_word": "sks",
    "data.trigger_word": "sks",
    "data.class_word": "woman",
}
"""Of keys whose value is read, or may be null."""


def other(value: Any) -> Any:
    """Any other value."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, "another"]
    if isinstance(value, dict):
        return {**value, "another": 1}
    return f"{value} another"


def changed(config: TrainConfig, key: str, at: Path) -> TrainConfig:
    """The config with another value of a key, as no check would let it pass."""
    *groups, last = key.split(".")
    config = copy.deepcopy(config)
    group: Any = config
    for name in groups:
        group = getattr(group, name) if hasattr(group, name) else group.parts[name]
    value = VALUES.get(key, other(getattr(group, last)))
    setattr(group, last, value.format(at=at) if isinstance(value, str) else value)
    return config


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    words = {"evaluation.trigger_word": "man", "evaluation.class_word": "person"}
    return typed((), {**words, "evaluation.prior_prompts": 1})


def ran(config: TrainConfig, kept: Kept, fingerprint: str = "same") -> dict[str, object]:
    """What a run of this config works with; afterwards it leaves that to the next one."""
    cpu, progress = torch.device("cpu"), Progress(enabled=False)
    base: Any = reuse.kept_base(config, kept)
    scorer = reuse.kept_scorer(
        config.evaluation, config.data, fingerprint, cpu, kept, lambda: Scorer([])
    )
    family: Any = SimpleNamespace(max_chunks=config.data.captions.max_chunks)
    nothing: Any = SimpleNamespace(pictures=[])
    prompts = validation_prompts(config, nothing, None)
    evaluator = preparation._evaluator(config, nothing, prompts, family, scorer, progress)
    evaluator = reuse.with_kept_pictures(evaluator, config, kept)
    evaluator.base = evaluator.base or SimpleNamespace()
    run: Any = SimpleNamespace(config=config, evaluator=evaluator, family=base)
    reuse.keep(run, kept)
    return {BASE: base, SCORER: scorer, PICTURES: evaluator.base}


@pytest.fixture
def made_anew(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> Callable[[TrainConfig], set[str]]:
    """What the run of another config after one of ``config`` makes anew."""
    monkeypatch.setattr(base_model, "load", lambda *settings: SimpleNamespace())
    monkeypatch.setattr(reuse, "restored_base", lambda family: family)
    monkeypatch.setattr(reuse.gc, "collect", lambda: 0)

    def compare(second: TrainConfig) -> set[str]:
        kept = Kept()
        before, after = ran(config, kept), ran(second, kept)
        return {what for what in before if before[what] is not after[what]}

    return compare


def expected(key: str) -> set[str]:
    if key.startswith("model.recommended."):  # acts through other keys
        return set()
    return KEYS.get(key, GROUPS.get(key.partition(".")[0], set()))


def test_nothing_is_made_anew_for_the_same_config(
    config: TrainConfig, made_anew: Callable[[TrainConfig], set[str]]
) -> None:
    assert made_anew(copy.deepcopy(config)) == set()


def test_each_key_makes_anew_what_depends_on_it(
    config: TrainConfig, made_anew: Callable[[TrainConfig], set[str]], tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("a man with a hat", "utf-8")
    keys = [key for key in sorted(keys_of_a_run()) if not key.startswith(ROOTS)]
    assert len(keys) > 150
    for key in keys:
        assert made_anew(changed(config, key, tmp_path)) == expected(key), key


def test_other_pictures_need_another_scorer(config: TrainConfig) -> None:
    kept = Kept()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_model, "load", lambda *settings: SimpleNamespace())
        patch.setattr(reuse, "restored_base", lambda family: family)
        before, after = ran(config, kept), ran(config, kept, "other pictures")
    assert before[BASE] is after[BASE]
    assert before[SCORER] is not after[SCORER]
    assert before[PICTURES] is not after[PICTURES]
