"""``config.json`` of a run: written at its start, compared when it is resumed."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdlora.runs.run_folder import RunFolderError
from sdlora.runtime.files import write_json

CONFIG = "config.json"
"""File of the resolved config of the run at its start."""


SHOWN_DETAILS = 10
"""Number of changed pictures that the refusal of a resumed run lists."""

FREE_KEYS = (
    "check",
    "resume",
    "from_lora",
    "run_dir",
    "model.recommended",
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
prefixes are compared by hash. ``model.recommended`` acts through other keys only, which are
compared themselves."""


BATCHES_A_STEP = (
    "trainer.accumulate_grad_batches",
    "trainer.devices",
    "trainer.num_nodes",
)
"""Keys of which only the product may not change: the same batches on other devices."""


def write_config(
    folder: Path,
    config: Mapping[str, Any],
    hashes: Mapping[str, str],
    asked: Mapping[str, Any] | None = None,
) -> None:
    """Write the config, the start time, and the hashes of data and base model.

    A resumed run keeps its first start time.

    Args:
        folder: The run folder.
        config: The config that the run trains with.
        hashes: SHA-256 of data and base model, by name.
        asked: Values of keys before the plan of memory changed them.
    """
    began = (started_at(folder) if config.get("resume") else None) or now()
    written = {"config": config, "hashes": hashes, "started_at": began, "asked": asked or {}}
    write_json(folder / CONFIG, written)


def read_asked(folder: Path) -> dict[str, Any]:
    """What ``write_config`` was given as ``asked``; empty in a folder without it."""
    try:
        return dict(json.loads((folder / CONFIG).read_text("utf-8"))["asked"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def started_at(folder: Path) -> float | None:
    """Start time of the run in this folder, as from :func:`now`; ``None`` if unknown."""
    try:
        return float(json.loads((folder / CONFIG).read_text("utf-8"))["started_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def now() -> float:
    """Seconds since 1970 (UTC); ``SOURCE_DATE_EPOCH`` if it is set, for files that can be compared.

    Source:
        reproducible-builds.org, SOURCE_DATE_EPOCH.
    """
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    return float(fixed) if fixed.isdecimal() else time.time()


def read_config(folder: Path, key: str = "resume") -> tuple[dict[str, Any], dict[str, str]]:
    """Config and hashes as ``write_config`` wrote them.

    Args:
        folder: The run folder.
        key: Config key of the folder, for the message.

    Raises:
        RunFolderError: If the folder has none.
    """
    try:
        stored = json.loads((folder / CONFIG).read_text("utf-8"))
        return stored["config"], stored["hashes"]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise RunFolderError(
            f"{key}={folder}: {CONFIG} is missing or damaged ({type(error).__name__}), so the "
            "config of the run is unknown; name another run folder"
        ) from error


def refuse_changes(
    folder: Path,
    config: Mapping[str, Any],
    hashes: Mapping[str, str] | None = None,
    details: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Raise an error if a resumed run changes anything that its weights depend on.

    Args:
        folder: The run folder.
        config: The config now.
        hashes: The data and model hashes now; ``None``: not known yet.
        details: Name of a hash -> its changes, one line each.

    Raises:
        RunFolderError: Listing key, old and new value of each difference.
    """
    before, hashes_before = read_config(folder)
    changed = [
        f"{key}: was {old!r}, now {new!r}"
        for key, old, new in differences(_comparable(before), _comparable(config))
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)
    ]
    if hashes is not None:
        for key, old, new in differences(hashes_before, hashes):
            marks = f"(SHA-256 {str(old)[:12]} -> {str(new)[:12]})"
            changed.append(f"{key}: its content has changed {marks}")
            changed += [f"  {line}" for line in _shortened((details or {}).get(key, ()))]
    if changed:
        listing = "".join(f"\n  {line}" for line in changed)
        raise RunFolderError(
            f"resume={folder}: cannot continue, since this changed:{listing}\n"
            "Set it back, or start a new run."
        )


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys, with the number of batches in a step instead of its factors."""
    values = flat(config)
    factors = [int(values.pop(key, 1)) for key in BATCHES_A_STEP]
    return {" * ".join(BATCHES_A_STEP): math.prod(factors), **values}


def _shortened(lines: Sequence[str]) -> list[str]:
    more = len(lines) - SHOWN_DETAILS
    return [*lines[:SHOWN_DETAILS], *([f"and {more} more"] if more > 0 else [])]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ, with both values (``None`` where there is none), sorted."""
    keys = sorted(set(before) | set(now))
    return [(k, before.get(k), now.get(k)) for k in keys if before.get(k) != now.get(k)]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values
