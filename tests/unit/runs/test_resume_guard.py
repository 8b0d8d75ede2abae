"""What a resumed run may change, pinned whole: every key of the config is tried."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from sdlora.cli.composition import to_typed
from sdlora.config.keys import as_written, flat
from sdlora.config.train import TrainConfig
from sdlora.runs.run_config import refuse_changes, write_config
from sdlora.runs.run_folder import RunFolderError
from tests.composed import composed_train

FREE_GROUPS = (
    *("sampling.", "evaluation.", "checkpoint.", "logger.", "export.", "sweep."),
    "model.recommended.",
)
"""What is shown and kept of a run, and never its weights; and what acts through other keys only."""

FREE_KEYS = {
    "model.draw_with",
    "lora.relative_rate",  # acts through the rates
    "check",
    "resume",
    "resume_step",
    "from_lora",
    "run_dir",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.log_every_n_steps",
    "trainer.accelerator",
    "trainer.timeout_min",
    "trainer.gradient_checkpointing",
    "trainer.offload",
    "trainer.memory_gb",
    "data.root",  # a folder may move; its content is compared by hash
    "data.roots",  # so are repeats and prefixes
    "data.num_workers",
    "data.cache.mode",
    "data.cache.dir",
    "data.cache.max_gib",
    "data.cache.resident_gib",
}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The default config, with a text encoder's and a scorer's open mappings filled."""
    composed = composed_train("++optim.options={eps:1e-6}")
    OmegaConf.update(composed, "run_dir", "run")
    return as_written(to_typed(composed, TrainConfig))


def changed(config: dict[str, Any], key: str) -> dict[str, Any]:
    """The config with another value of one key."""
    first, _, rest = key.partition(".")
    value = changed(config[first], rest) if rest else ["another", config[first]]
    return {**config, first: value}


def refused(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """Keys that a resumed run must not change."""
    for key in flat(config):
        if key.startswith("trainer.") and key.endswith(("accumulate_grad_batches", "devices")):
            continue  # only their product counts: test_run_folder.py
        if key == "trainer.num_nodes":
            continue
        try:
            refuse_changes(folder, changed(config, key), {})
        except RunFolderError:
            yield key


def test_exactly_these_keys_may_change(config: dict[str, Any], tmp_path: Path) -> None:
    write_config(tmp_path, config, {})
    guarded = set(refused(tmp_path, config))
    assert len(guarded) > 80
    free = set(flat(config)) - guarded
    factors = {f"trainer.{x}" for x in ("accumulate_grad_batches", "devices", "num_nodes")}
    shown = {key for key in free if key.startswith(FREE_GROUPS)}
    assert free - shown - factors == FREE_KEYS
    assert not [key for key in guarded if key.startswith(FREE_GROUPS)]


@pytest.mark.parametrize("key", ["check_more", "data.rooted", "trainer.max_steps_more"])
def test_a_key_that_begins_like_a_free_one_is_not_free(key: str, tmp_path: Path) -> None:
    config: dict[str, Any] = {"data": {}, "trainer": {}}
    write_config(tmp_path, config, {})
    first, _, rest = key.partition(".")
    now = {**config, first: {rest: 1} if rest else 1}
    with pytest.raises(RunFolderError, match=f"  {key}: was None, now 1"):
        refuse_changes(tmp_path, now, {})
