"""Hashes of the files that a run starts from, cached by size and times."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sdlora.assembly.base_model import model_source
from sdlora.assembly.data_source import file_index
from sdlora.config.data import DataConfig
from sdlora.config.lora import LoraConfig
from sdlora.config.model import ModelConfig
from sdlora.data.sources.picture_source import record
from sdlora.models.families import description_of
from sdlora.models.source import part_folder, resolve
from sdlora.runtime.files import file_mark, sha256

_KIND = "file/sha256"


def base_hashes(model: ModelConfig, data: DataConfig) -> dict[str, str]:
    """SHA-256 of the base's weight files, which a LoRA and a checkpoint belong to."""
    names = description_of(model.family).parts
    scratch = model_source(model).scratch
    hashes = file_hashes([part for part in names if part not in scratch], model, data)
    return {name: value for name, value in hashes.items() if name.endswith(".safetensors")}


def init_hashes(lora: LoraConfig) -> dict[str, str]:
    """SHA-256 of the weight files that the adapters start from (``lora.init_from``), if any."""
    if lora.init_from is None:
        return {}
    start = Path(lora.init_from)
    if start.is_file():
        return {"lora.init_from": sha256(start)}
    found = sorted(start.rglob("*.safetensors"))
    return {f"lora.init_from/{p.relative_to(start).as_posix()}": sha256(p) for p in found}


def part_key(
    parts: Sequence[str], model: ModelConfig, data: DataConfig, settings: Sequence[str]
) -> str:
    """Cache key of a frozen part: hash of its files and of the settings that change its output.

    Among these is the variant: a folder may hold the files of several, and all are hashed.
    """
    hashes = [f"{name} {value}" for name, value in file_hashes(parts, model, data).items()]
    return hashlib.sha256(record(str(model.variant), *settings, *hashes)).hexdigest()


def file_hashes(parts: Sequence[str], model: ModelConfig, data: DataConfig) -> dict[str, str]:
    """SHA-256 of every file of some parts of the base, by part and name.

    Hashing gigabytes takes long; a file counts as unchanged while size and times are, as in git.

    Args:
        parts: Names of parts of the base.
        model: The base model.
        data: Its cache holds the hashes of earlier runs.
    """
    source = model_source(model)
    base = resolve(source)
    places = {part: part_folder(part, base, source) for part in parts}
    files = {
        path: f"{part}/{path.relative_to(place).as_posix()}"
        for part, place in places.items()
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }
    marks = {path: file_mark(path) for path in files}
    with file_index(data) as index:
        known = index.facts(_KIND, list(marks.values()))
        fresh = {mark: sha256(path) for path, mark in marks.items() if mark not in known}
        index.store_facts(_KIND, fresh)
    found = {**known, **fresh}
    return {files[path]: found[mark] for path, mark in marks.items()}
