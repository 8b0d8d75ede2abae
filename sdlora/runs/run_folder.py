"""A run's folder: one process at a time, its config written once and compared on resume."""

import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from filelock import FileLock, Timeout

from sdlora.runs.checkpoints import steps_on_disk
from sdlora.runtime.files import remove_stale_temporaries, write_json

HOLDER = ".lock.json"
"""Beside the lock while it is held: who holds it, for the message to others."""

CONFIG = "config.json"
"""The resolved config of the run, as it began."""

SHOWN_DETAILS = 10
"""So many changed pictures are named when a resumed run is refused."""

FREE_KEYS = (
    "check",
    "resume",
    "from_lora",
    "run_dir",
    "sampling",
    "evaluation",
    "checkpoint",
    "logger",
    "export",
    "sweep",
    "trainer.max_steps",
    "trainer.log_every_n_steps",
    "trainer.accelerator",
    "trainer.timeout_min",
    "trainer.gradient_checkpointing",
    "trainer.offload",
    "data.root",
    "data.roots",
    "data.num_workers",
    "data.cache",
)
"""What a resumed run may change: how long it goes on, what it shows, and where things lie.
``data.root`` and ``data.roots`` are here because a folder may move; their content, repeats and
prefixes are compared by hash."""

BATCHES_A_STEP = (
    "trainer.accumulate_grad_batches",
    "trainer.devices",
    "trainer.num_nodes",
)
"""Keys of which only the product may not change: the same batches, dealt to other devices."""


class RunFolderError(ValueError):
    """A run folder that cannot be used; the message says why and what to do."""


@contextmanager
def locked(
    folder: Path, key: str = "run_dir", remedy: str = "hydra.run.dir=FOLDER"
) -> Iterator[Path]:
    """Hold the folder for this process; the lock goes with the process, even a killed one.

    What a killed writer left behind is removed.

    Args:
        folder: Of a run, or of a sweep.
        key: Of the config, that names it; for the message.
        remedy: How to choose another.

    Raises:
        RunFolderError: If another process works in it, or nothing can be written there.
    """
    make_folder(folder, key, remedy)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFolderError(
            f"{key}={folder}: another process is training in it{_holder(folder)}; wait for it, or "
            f"choose another folder with {remedy}"
        ) from None
    try:
        began = datetime.now(UTC).isoformat(" ", "seconds")
        told = {"process": os.getpid(), "computer": platform.node(), "since": began}
        write_json(folder / HOLDER, told)
        for inside in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            remove_stale_temporaries(inside)
        yield folder
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def make_folder(folder: Path, key: str, remedy: str) -> None:
    """Make the folder of a run or a sweep, where it is not there; arguments as of :func:`locked`.

    Raises:
        RunFolderError: If nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunFolderError(
            f"{key}={folder}: cannot be written in ({error.strerror}); choose another folder with "
            f"{remedy}"
        ) from error


def _holder(folder: Path) -> str:
    try:
        told = json.loads((folder / HOLDER).read_text("utf-8"))
        return f" (process {told['process']} on {told['computer']}, since {told['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or ended
        return ""


def refuse_used(folder: Path) -> None:
    """Fail if a new run would write over the checkpoints or the result of an older one.

    Raises:
        RunFolderError: Naming both ways on.
    """
    if steps_on_disk(folder / "checkpoints") or (folder / "lora").exists():
        raise RunFolderError(
            f"run_dir={folder}: holds a run already; go on with it by resume={folder}, or choose "
            "another folder with hydra.run.dir=FOLDER"
        )


def write_config(folder: Path, config: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    """Write down what the run was told, when it began, and the hashes of its data and base model.

    A run that is resumed began when it first did.
    """
    began = (started_at(folder) if config.get("resume") else None) or now()
    write_json(folder / CONFIG, {"config": config, "hashes": hashes, "started_at": began})


def started_at(folder: Path) -> float | None:
    """When the run of this folder began, as :func:`now` gives it; ``None`` if nothing says."""
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
    """Config and hashes as ``write_config`` left them.

    Args:
        folder: The run folder.
        key: Of the config, that names it; for the message.

    Raises:
        RunFolderError: If the folder has none.
    """
    try:
        stored = json.loads((folder / CONFIG).read_text("utf-8"))
        return stored["config"], stored["hashes"]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise RunFolderError(
            f"{key}={folder}: {CONFIG} is missing or damaged ({type(error).__name__}), so nothing "
            "says how the run began; name another"
        ) from error


def refuse_changes(
    folder: Path,
    config: Mapping[str, Any],
    hashes: Mapping[str, str] | None = None,
    details: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Fail if a resumed run differs from its beginning in anything that the weights depend on.

    Args:
        folder: The run folder.
        config: The config as it is now.
        hashes: The data and model hashes as they are now; ``None``: not known yet.
        details: Name of a hash -> what of it changed, one line each.

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
            f"resume={folder}: cannot go on, since this changed:{listing}\n"
            "Set it back, or start a new run."
        )


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys, with the number of batches in a step in place of its factors."""
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
