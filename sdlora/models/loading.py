"""Loading of the parts of a base model."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from sdlora.models.base_folder import check_folder, is_distilled
from sdlora.models.base_noise import noise_schedule_config
from sdlora.models.checkpoint_file import HALVES, read_header
from sdlora.models.description import FamilyDescription
from sdlora.models.families import description_of, families
from sdlora.models.family import Family
from sdlora.models.flow_transformer import FlowTransformer
from sdlora.models.source import (
    ModelError,
    ModelSource,
    part_config,
    part_folder,
    resolve,
    schedule_folder,
)
from sdlora.weights.soundness import fault


def load_family(source: ModelSource, seed: int, needed: Collection[str] | None = None) -> Family:
    """Load a base model.

    Args:
        source: Location and precision.
        seed: Seed of parts with random weights.
        needed: Parts that are needed; the others have no weights (torch's meta device).
            ``None``: all.

    Raises:
        ConfigError: If the family is unknown.
        ModelError: If a file is missing or incomplete, or the model is of another family.
    """
    description = description_of(source.family)
    folder = resolve(source)
    check_folder(folder, source)
    parts: dict[str, Any] = {
        name: _load_part(name, folder, source, seed)
        if needed is None or name in needed
        else empty_part(name, source)
        for name in description.parts
    }
    _check_kind(source, parts, description)
    tokenizers = load_tokenizers(folder, source.family)
    given: dict[str, Any] = {"clip_skip": source.clip_skip} if description.is_clip else {}
    family = description.make(
        **parts,
        **dict(zip(description.tokenizers, tokenizers, strict=True)),
        noise_schedule_config=noise_schedule_config(source),
        **given,
    )
    if isinstance(family, FlowTransformer):
        family.is_distilled = is_distilled(schedule_folder(source))
    return family


def load_tokenizers(folder: Path, family: str) -> list[Any]:
    """The tokenizers of a model folder, which check captions before any weight is read.

    Raises:
        ModelError: If a language model's lacks its chat template.
    """
    description = description_of(family)
    length = description.max_tokens
    known = {} if length is None else {"model_max_length": length}
    found = [
        kind.from_pretrained(folder / name, **known)
        for name, kind in description.tokenizers.items()
    ]
    if description.chat is None:
        return found
    for name, tokenizer in zip(description.tokenizers, found, strict=True):
        if tokenizer.chat_template is None:
            raise ModelError(
                f"{folder / name}: has no chat template (chat_template.jinja, or in its "
                f"tokenizer_config.json), with which {description.kind} reads captions; fetch the "
                "model again"
            )
    return [description.chat(each) for each in found]


def load_part(name: str, source: ModelSource, seed: int) -> nn.Module:
    """One part of a model, with its weights.

    Raises:
        ModelError: If a file is missing or incomplete.
    """
    folder = resolve(source)
    check_folder(folder, source)
    return _load_part(name, folder, source, seed)


def empty_part(name: str, source: ModelSource) -> nn.Module:
    """A part without weights, on torch's meta device: names and shapes of its layers.

    Raises:
        ModelError: If its ``config.json`` or another file of the folder is missing.
    """
    folder = resolve(source)
    check_folder(folder, source)
    with torch.device("meta"):
        return _from_config(name, folder, source)


def check_parts(source: ModelSource) -> None:
    """Refuse models of another family, and parts whose shapes do not match; reads no weight.

    Raises:
        ModelError: Naming what does not match.
    """
    description = description_of(source.family)
    _check_kind(source, {part: empty_part(part, source) for part in description.parts}, description)


def _check_kind(
    source: ModelSource, parts: Mapping[str, Any], description: FamilyDescription
) -> None:
    """Refuse models of another family, and parts whose shapes do not match."""
    config = parts[description.denoiser].config
    key, value = source.instead(description.denoiser) or ("model.path", source.path)
    where = f"{key}={value}"
    if not description.has_denoiser(config):
        found = [each for each in families().values() if each.has_denoiser(config)]
        kind, remedy = "no known family", "choose another model"
        if found:
            kind, remedy = found[0].kind, f"set model.family={found[0].name}"
        raise ModelError(
            f"{where}: its {description.denoiser} is that of {kind}, no {description.kind}; "
            f"{remedy}"
        )
    misfit = description.misfit(parts)
    if misfit is not None:
        where = "model.architecture" if source.architecture else where
        raise ModelError(f"{where}: {misfit}: no {description.kind}; choose another")


def _load_part(name: str, folder: Path, source: ModelSource, seed: int) -> nn.Module:
    kind = description_of(source.family).parts[name]
    if name in source.scratch:
        return _random_part(name, folder, source, seed)
    other = source.instead(name)
    key, value = other or ("model.path", source.path)
    where = f"{key}={value}" if key == "model.vae" else f"{key}={value}: {name}"
    frozen = source.vae_dtype if name == "vae" and source.vae_dtype else source.frozen_dtype
    argument = "dtype" if name.startswith("text_encoder") else "torch_dtype"
    place = part_folder(name, folder, source)
    try:
        part, report = kind.from_pretrained(
            place,
            variant=None if other is not None else source.variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **{argument: torch.float32 if name in source.trained else frozen or file_dtype(place)},
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        faults = {path.name: fault(path) for path in sorted(place.glob("*.safetensors"))}
        broken = ", ".join(f"{name} {what}" for name, what in faults.items() if what is not None)
        reason = broken or error
        raise ModelError(f"{where} cannot be loaded ({reason}); fetch it again") from error
    if report["missing_keys"]:  # the libraries would go on with random weights there
        keys = sorted(report["missing_keys"])
        raise ModelError(
            f"{where}: its files lack {len(keys)} weights ({', '.join(keys[:3])}); fetch it again"
        )
    return part


def file_dtype(place: Path) -> torch.dtype:
    """The dtype of a part's weights in its files; float32 where there are several."""
    files = sorted(place.glob("*.safetensors"))
    kinds = {kind for file in files[:1] for kind in read_header(file).dtypes.values()}
    return HALVES.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32


def _random_part(name: str, folder: Path, source: ModelSource, seed: int) -> nn.Module:
    """A part with random float32 weights, a function of the seed; the global generator is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _from_config(name, folder, source)


def _from_config(name: str, folder: Path, source: ModelSource) -> nn.Module:
    kind = description_of(source.family).parts[name]
    if name.startswith("text_encoder"):
        return kind(kind.config_class.from_pretrained(folder / name))
    return kind.from_config(part_config(name, folder, source))
