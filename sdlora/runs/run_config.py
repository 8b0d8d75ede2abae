"""``config.json`` of a run: written at its start, compared when it is resumed."""

import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdlora.config.keys import all_keys, flat
from sdlora.config.train import TrainConfig
from sdlora.runs.identity import CONFIG, read_record, weight_settings
from sdlora.runs.origin import ORIGIN, seal
from sdlora.runs.partial_files import is_number, mapping
from sdlora.runs.run_folder import RunFolderError
from sdlora.runs.stored_paths import seen_from_here
from sdlora.runtime.files import write_bytes, write_json

SHOWN_DETAILS = 10
"""Number of changed pictures that the refusal of a resumed run lists."""


def write_config(
    folder: Path,
    config: Mapping[str, Any],
    hashes: Mapping[str, str],
    asked: Mapping[str, Any] | None = None,
    given: Sequence[str] = (),
) -> None:
    """Write the record of a run: its config, and the hashes of data and base model.

    A resumed run keeps its identity, its first start time, and what earlier starts gave.

    Args:
        folder: The run folder.
        config: The config that the run trains with.
        hashes: SHA-256 of data and base model, by name; empty: not known yet.
        asked: Values of keys before the plan of memory changed them.
        given: The overrides of this start, as typed; they are shown, and never read back.
    """
    is_resumed = bool(config.get("resume"))
    before = read_record(folder) if is_resumed else {}
    written = {
        "config": config,
        "hashes": hashes,
        "run": before.get("run") or uuid.uuid4().hex,
        "started_at": (started_at(folder) if is_resumed else None) or now(),
        "working_folder": str(Path.cwd()),
        "asked": asked or {},
        ORIGIN: seal(config),
        "given": [*(read_given(folder) if is_resumed else []), list(given)],
    }
    write_json(folder / CONFIG, written)


def read_given(folder: Path) -> list[list[str]]:
    """The overrides of each start of the run, as typed; empty where they are not known."""
    given = read_record(folder).get("given", [])
    is_known = isinstance(given, list) and all(isinstance(start, list) for start in given)
    return [[str(item) for item in start] for start in given] if is_known else []


def read_asked(folder: Path) -> dict[str, Any]:
    """What ``write_config`` was given as ``asked``; empty in a folder without it."""
    return mapping(read_record(folder).get("asked"))


def started_at(folder: Path) -> float | None:
    """Start time of the run in this folder, as from :func:`now`; ``None`` if unknown."""
    found = read_record(folder).get("started_at")
    return float(found) if is_number(found) else None


def now() -> float:
    """Seconds since 1970 (UTC); ``SOURCE_DATE_EPOCH`` if it is set, for files that can be compared.

    Source:
        reproducible-builds.org, SOURCE_DATE_EPOCH.
    """
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    return float(fixed) if fixed.isdecimal() else time.time()


def read_config(folder: Path, key: str = "resume") -> tuple[dict[str, Any], dict[str, str]]:
    """Config and hashes as ``write_config`` wrote them, with the run's paths as seen from here.

    Args:
        folder: The run folder.
        key: Config key of the folder, for the message.

    Raises:
        RunFolderError: If the folder has none.
    """
    try:
        stored = json.loads((folder / CONFIG).read_text("utf-8"))
        config, hashes = dict(stored["config"]), dict(stored["hashes"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{key}={folder}: {CONFIG} is missing or damaged ({type(error).__name__}), so the "
            "config of the run is unknown; name another run folder"
        ) from error
    return seen_from_here(config, stored.get("working_folder")), hashes


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
        RunFolderError: Listing key, old and new value of each difference; or that another version
            made the run, whose config lacks keys.
    """
    before, hashes_before = read_config(folder)
    found = differences(weight_settings(before), weight_settings(config))
    known, written = all_keys(TrainConfig), flat(before)
    if new_keys := [key for key, _, _ in found if key in known and key not in written]:
        raise RunFolderError(
            f"resume={folder}: was made by another version of sdlora, which has no "
            f"{', '.join(new_keys)}; continue it with that version, or start a new run"
        )
    changed = [f"{key}: was {old!r}, now {new!r}" for key, old, new in found]
    if hashes is not None and hashes_before:
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


def _shortened(lines: Sequence[str]) -> list[str]:
    more = len(lines) - SHOWN_DETAILS
    return [*lines[:SHOWN_DETAILS], *([f"and {more} more"] if more > 0 else [])]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ, with both values (``None`` where there is none), sorted."""
    keys = sorted(set(before) | set(now))
    return [(k, before.get(k), now.get(k)) for k in keys if before.get(k) != now.get(k)]


def keep_record(folder: Path, content: bytes) -> bool:
    """Write the record of a run again, if its folder was removed; whether that was so."""
    if (folder / CONFIG).exists():
        return False
    write_bytes(folder / CONFIG, content)
    return True
