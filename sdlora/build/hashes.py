"""What a base model is: the hashes of its files, computed once for ever."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sdlora.build.parts import PARTS, model_source
from sdlora.build.sources import file_index
from sdlora.config import TrainConfig
from sdlora.config_data import DataConfig
from sdlora.data.sources import record
from sdlora.files import sha256
from sdlora.models.loading import resolve

_KIND = "file/sha256"


def base_hashes(config: TrainConfig) -> dict[str, str]:
    """SHA-256 of the base's weight files: what a LoRA and a checkpoint belong to."""
    kept = [part for part in ("vae", *PARTS) if part not in config.model.scratch]
    base = resolve(model_source(config.model))
    hashes = file_hashes(base, kept, config.data)
    return {name: value for name, value in hashes.items() if name.endswith(".safetensors")}


def part_key(base: Path, parts: Sequence[str], data: DataConfig, settings: Sequence[str]) -> str:
    """A name for what a frozen part computes: its files' bytes, and how it is run."""
    hashes = [f"{name} {value}" for name, value in file_hashes(base, parts, data).items()]
    return hashlib.sha256(record(*settings, *hashes)).hexdigest()


def file_hashes(base: Path, parts: Sequence[str], data: DataConfig) -> dict[str, str]:
    """SHA-256 of every file of some parts, by its path below ``base``.

    Gigabytes take long to read; so a file counts as unchanged while size and times are (as for
    git).
    """
    files = [path for part in parts for path in sorted((base / part).rglob("*")) if path.is_file()]
    marks = {path: _mark(path) for path in files}
    with file_index(data) as index:
        known = index.facts(_KIND, list(marks.values()))
        fresh = {mark: sha256(path) for path, mark in marks.items() if mark not in known}
        index.store_facts(_KIND, fresh)
    found = {**known, **fresh}
    return {path.relative_to(base).as_posix(): found[mark] for path, mark in marks.items()}


def _mark(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
