"""The folder of a base model: whether it is whole, and of its family, by configs and file names."""

import json
import re
from pathlib import Path

from sdlora.models.checkpoint_file import SingleFileError
from sdlora.models.checkpoint_kind import check_folder_kind
from sdlora.models.families import description_of, families
from sdlora.models.source import (
    ModelError,
    ModelSource,
    missing_file,
    part_config,
    part_folder,
    weights_stem,
)
from sdlora.weights.hub_models import missing_shards


def check_folder(folder: Path, source: ModelSource) -> None:
    """Raise an error naming the first missing file of a whole pipeline."""
    description = description_of(source.family)
    if "vae" in description.parts:
        try:
            check_folder_kind(folder, description.denoiser)
        except SingleFileError as error:
            raise ModelError(f"model.path={source.path}: {error}") from error
    missing = missing_file(folder, source)
    if missing:
        raise ModelError(
            f"model.path={source.path}: {missing} is missing in {folder}; the folder must be a "
            "whole pipeline in the diffusers layout (half a download? fetch it again)"
        )
    for part in description.parts:
        _check_part(part, folder, source)
    _check_transformer(folder, source)
    if not description.tokenizers:
        _require_unconditional(folder, source)


def is_distilled(folder: Path) -> bool:
    """Whether a pipeline says that it was distilled to draw in few steps, without guidance."""
    try:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
    except (OSError, ValueError):  # which other checks name
        return False
    return bool(index.get("is_distilled"))


def _check_transformer(folder: Path, source: ModelSource) -> None:
    """Refuse the transformer of another family, whose folders have the same names."""
    description = description_of(source.family)
    denoiser = description.denoiser
    wanted, found = description.parts[denoiser].__name__, None
    if not description.is_flow:
        return
    found = part_config(denoiser, folder, source).get("_class_name", wanted)
    if found == wanted:
        return
    others = [each for each in families().values() if denoiser in each.parts]
    same = [each for each in others if each.parts[denoiser].__name__ == found]
    remedy = f"set model.family={same[0].name}" if same else "choose another model"
    key, value = source.instead(denoiser) or ("model.path", source.path)
    raise ModelError(f"{key}={value}: its {denoiser} is a {found}, no {description.kind}; {remedy}")


def _require_unconditional(folder: Path, source: ModelSource) -> None:
    """Refuse a pipeline with further parts, such as a VAE or text encoders."""
    description = description_of(source.family)
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    there = {name for name, kind in index.items() if isinstance(kind, list) and kind[0]}
    if others := there - {description.denoiser, "scheduler"}:
        raise ModelError(
            f"model.path={source.path}: has {', '.join(sorted(others))}, too: no "
            f"{description.kind}; choose its own model.family, or another model"
        )


def _check_part(part: str, folder: Path, source: ModelSource) -> None:
    other = source.instead(part)
    own = other is not None and other[0] == "model.vae"
    key, value = other or ("model.path", source.path)
    where = f"{key}={value}:" if own else f"{key}={value}: {part}/"
    place = part_folder(part, folder, source)
    if not (place / "config.json").is_file():
        raise ModelError(f"{where}config.json is missing in {place.parent}; fetch the model again")
    if part in source.scratch:
        return
    variant = None if other is not None else source.variant
    stem = weights_stem(part) + (f".{variant}" if variant else "")
    names = [path.name for path in place.glob(f"{weights_stem(part)}*.safetensors")]
    if f"{stem}.safetensors" in names:
        return
    shards = [name for name in names if _is_shard(name, weights_stem(part), variant)]
    if lacking := missing_shards(shards):
        raise ModelError(
            f"{where}{lacking[0]} is missing in {place.parent}: its weights are in several files "
            f"({len(lacking)} of them not there); fetch the model again"
        )
    if shards:
        return
    if any(place.glob("*.bin")):
        kind = "AutoencoderKL" if own else "DiffusionPipeline"
        here = place if own else place.parent
        raise ModelError(
            f"{where.removesuffix('/')} has only .bin weights, which are pickle and can run code; "
            f"convert them, and use {key}={here}_safe:\n"
            f'python -c "from diffusers import {kind} as P; '
            f"P.from_pretrained(r'{here}').save_pretrained(r'{here}_safe')\""
        )
    there = f" (there is {', '.join(sorted(names))})" if names else ""
    variants = sorted(weight_kinds(part, place))
    way = " or ".join(f"model.variant={each or 'null'}" for each in variants) or "model.variant"
    way = "fetch it" if other is not None and not own else f"fetch it, or set {way}"
    raise ModelError(f"{where}{stem}.safetensors is missing in {place.parent}{there}; {way}")


def _is_shard(name: str, stem: str, variant: str | None) -> bool:
    """Whether a file has a share of a part's weights, of this variant."""
    dotted = re.escape(f".{variant}") if variant else ""
    one = r"-\d+-of-\d+"
    return re.fullmatch(rf"{stem}(?:{dotted}{one}|{one}{dotted})\.safetensors", name) is not None


def weight_kinds(part: str, place: Path) -> set[str]:
    """The variants of a part's weights in its folder, such as ``fp16``; ``""`` is none."""
    stem = weights_stem(part)
    rests = [path.name.removeprefix(stem) for path in place.glob(f"{stem}*.safetensors")]
    kinds = (rest.removesuffix(".safetensors").partition("-")[0].strip(".") for rest in rests)
    return set(kinds)
