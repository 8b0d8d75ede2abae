"""Identity of a run, which its checkpoints have, and the settings that its weights depend on."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlora.config.keys import flat
from sdlora.runs.partial_files import mapping, read_mapping
from sdlora.runs.stored_paths import PATHS
from sdlora.runtime.places import RUN_CONFIG

CONFIG = RUN_CONFIG
"""File of the resolved config of the run, and of what each of its starts gave."""

FREE_KEYS = (
    "check",
    "resume",
    "resume_step",
    "from_lora",
    "run_dir",
    "model.draw_with",
    "model.recommended",
    "lora.relative_rate",
    "sampling",
    "evaluation",
    "checkpoint",
    "logger",
    "export",
    "sweep",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.log_every_n_steps",
    "trainer.accelerator",
    "trainer.timeout_min",
    "trainer.gradient_checkpointing",
    "trainer.offload",
    "trainer.memory_gb",
    "data.root",
    "data.roots",
    "data.num_workers",
    "data.cache",
)
"""Keys that a resumed run may change: length, pictures and scores, and locations.
``data.root`` and ``data.roots`` are here because a folder may move; their content, repeats and
prefixes are compared by hash. ``model.recommended`` and ``lora.relative_rate`` act through other
keys only, which are compared themselves."""


BATCHES_A_STEP = (
    "trainer.accumulate_grad_batches",
    "trainer.devices",
    "trainer.num_nodes",
)
"""Keys of which only the product may not change: the same batches on other devices."""


def weight_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run's weights depend on, by dotted key.

    Of the factors of a step's batches only the product counts.
    """
    values = flat(config)
    factors = [int(values.pop(key, 1)) for key in BATCHES_A_STEP]
    values = {" * ".join(BATCHES_A_STEP): math.prod(factors), **values}
    free = tuple(f"{key}." for key in FREE_KEYS)
    return {key: value for key, value in values.items() if not f"{key}.".startswith(free)}


def read_record(run: Path) -> dict[str, Any]:
    """The record of a run, as far as it can be read."""
    return read_mapping(run, CONFIG, [])


def identity(run: Path) -> dict[str, Any]:
    """What tells a run from others: ``run`` (drawn at its start), ``seed``, and a hash of settings.

    Paths are not in the hash: files may move, and their content has hashes of its own.

    Args:
        run: The run folder; without a record, or with one of an older version, it has no identity.
    """
    record = read_record(run)
    if not isinstance(record.get("run"), str):
        return {}
    config = mapping(record.get("config"))
    settings = {key: value for key, value in weight_settings(config).items() if key not in PATHS}
    text = json.dumps(settings, sort_keys=True)
    return {
        "run": record["run"],
        "seed": config.get("seed"),
        "settings": hashlib.sha256(text.encode()).hexdigest(),
    }
