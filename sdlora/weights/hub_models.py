"""Models of the Hugging Face Hub: what of one is needed, and whether it lies in the local cache."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sdlora.weights.soundness import fault

PIPELINE, CONFIGS, FEATURES, TAGGER = "pipeline", "configs", "features", "tagger"
"""A base model; the configs and tokenizers of one; a model of transformers that reads pictures; one
of onnxruntime that tags them."""

_FIRST = {
    PIPELINE: "model_index.json",
    CONFIGS: "model_index.json",
    FEATURES: "config.json",
    TAGGER: "selected_tags.csv",
}
"""File that every model of a kind has."""

_NETWORK_OF_TAGGER = "model.onnx"

_SMALL = (".json", ".txt", ".model", ".jinja")
"""Endings of configs, tokenizers and their chat templates."""

_UNUSED = {"safety_checker", "feature_extractor", "image_encoder"}
"""Parts of pipelines that no run uses."""

_WEIGHTLESS = ("scheduler", "tokenizer")
"""Beginnings of the names of parts without weights."""

_SHARD = re.compile(r"-\d+-of-(?P<count>\d+)(?=\.)")
_OF_SHARD = r"(?:-\d+-of-\d+)?"


class HubError(ValueError):
    """A model that the Hub does not give; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the Hub.

    Attributes:
        name: Its id, ``owner/name``.
        kind: ``PIPELINE``, ``CONFIGS``, ``FEATURES`` or ``TAGGER``.
        revision: Branch, tag or commit; ``None`` for the default branch.
        variant: Variant of the weight files, such as ``fp16``.
        part: The only part that is needed, such as ``vae``; ``None``: all.
        without: Parts whose weights are not needed.
    """

    name: str
    kind: str
    revision: str | None = None
    variant: str | None = None
    part: str | None = None
    without: tuple[str, ...] = ()


def is_hub_id(path: str) -> bool:
    """Whether a path of the config names a model on the Hub, and not a folder or a file here."""
    has_form = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path) is not None
    is_file = path.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".bin"))
    return has_form and not is_file and not Path(path).exists()


def cached_folder(model: HubModel) -> Path | None:
    """The folder of a model in the local cache, whole or not; reads no network."""
    from huggingface_hub import try_to_load_from_cache

    for first in (_FIRST[model.kind], "config.json"):
        found = try_to_load_from_cache(model.name, first, revision=model.revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def cache_place() -> Path:
    """Where the Hub's files lie on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def model_fault(model: HubModel) -> str | None:
    """What is wrong with a model in the local cache, as the end of a sentence; None: nothing."""
    folder = cached_folder(model)
    if folder is None:
        return f"is no folder here, and no model of the Hub that was fetched (to {cache_place()})"
    return folder_fault(model, folder)


def folder_fault(model: HubModel, folder: Path) -> str | None:
    """What is wrong with the files of a model in a folder, as the end of a sentence; None: nothing.

    Args:
        model: What is needed of it.
        folder: Where its files are.
    """
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    parts = parts_of(folder) if model.kind == PIPELINE else None
    try:
        weights = chosen_weights(model, there, parts)
    except HubError as error:
        return f"is not whole in {folder}: it {error}"
    faults = {name: fault(folder / name) for name in weights}
    broken = [f"{name} {what}" for name, what in faults.items() if what is not None]
    return f"{', '.join(broken)} in {folder}" if broken else None


def parts_of(folder: Path) -> list[str] | None:
    """Parts with weights of a pipeline, by its index; ``None``: it has none."""
    try:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return parts_in_index(index)


def parts_in_index(index: Mapping[str, object]) -> list[str]:
    """Parts with weights of a pipeline."""
    named = [name for name, kind in index.items() if isinstance(kind, list) and kind[0]]
    return [n for n in named if n not in _UNUSED and not n.startswith(_WEIGHTLESS)]


def chosen_files(
    model: HubModel, files: Collection[str], parts: Collection[str] | None
) -> list[str]:
    """Those files of a model that a run needs.

    Args:
        model: The model.
        files: All of its files.
        parts: Parts with weights, of a pipeline.

    Raises:
        HubError: If weights are not among them.
    """
    small = [name for name in files if name.endswith(_SMALL) and not _is_unused(name)]
    if model.kind == TAGGER:
        small = [_FIRST[TAGGER]]
    return sorted({*small, *chosen_weights(model, files, parts)})


def chosen_weights(
    model: HubModel, files: Collection[str], parts: Collection[str] | None
) -> list[str]:
    """The weight files that a run needs.

    Raises:
        HubError: If there are none.
    """
    if model.kind == CONFIGS:
        return []
    if model.kind == TAGGER:
        if lacking := {_FIRST[TAGGER], _NETWORK_OF_TAGGER} - set(files):
            raise HubError(f"has no {' and no '.join(sorted(lacking))}")
        return [_NETWORK_OF_TAGGER]
    if model.kind == FEATURES:
        return _weights_in("", files, None, ("model",), may_be_pickle=True)
    if model.part is not None:
        parts = [model.part]
    found = []
    for part in [each for each in parts or [""] if each not in model.without]:
        is_flat = "config.json" in files and f"{part}/config.json" not in files
        place = "" if is_flat else part
        stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
        found += _weights_in(place, files, model.variant, (stem,))
    return found


def _weights_in(
    place: str,
    files: Collection[str],
    variant: str | None,
    stems: tuple[str, ...],
    may_be_pickle: bool = False,
) -> list[str]:
    """Weight files in one folder of a model."""
    dotted = "" if variant is None else re.escape(f".{variant}")
    stem = "|".join(stems)
    pattern = rf"(?:{stem}){_OF_SHARD}{dotted}{_OF_SHARD}\.safetensors"
    here = {PurePosixPath(name).name: name for name in files if _folder(name) == place}
    found = [name for base, name in here.items() if re.fullmatch(pattern, base)]
    pickled = [base for base in here if base.endswith(".bin")]
    if not found and may_be_pickle and "pytorch_model.bin" in pickled:
        return [here["pytorch_model.bin"]]
    if lacking := missing_shards(found):
        raise HubError(f"lacks {lacking[0]} of the parts of its weights; fetch it again")
    if not found:
        wanted = f"{place}/{stem}{'' if variant is None else '.' + variant}.safetensors"
        raise HubError(f"has no {wanted.lstrip('/')}{_beside(here, bool(pickled))}")
    return found


def missing_shards(names: Collection[str]) -> list[str]:
    """Files of weights in several files that are not among ``names``, which count their parts."""
    lacking = set()
    for name in names:
        if shard := _SHARD.search(name):
            begin, end, count = name[: shard.start()], name[shard.end() :], shard["count"]
            numbers = (f"{number:0{len(count)}}" for number in range(1, int(count) + 1))
            lacking |= {f"{begin}-{number}-of-{count}{end}" for number in numbers} - set(names)
    return sorted(lacking)


def _beside(here: Collection[str], is_pickled: bool) -> str:
    """What lies there instead of the weights, and what to do about it."""
    others = sorted(base for base in here if base.endswith(".safetensors"))
    if others:
        return f" (there is {', '.join(others)}: set model.variant)"
    return " but .bin, which is pickle and can run code; choose another model" * is_pickled


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _is_unused(name: str) -> bool:
    return bool(_UNUSED & set(PurePosixPath(name).parts[:-1]))
