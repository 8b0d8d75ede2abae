"""Inspection of a LoRA file by its header: family, kinds, layers, ranks, alphas, readers."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sdlora.adapters.adapter_kinds import title_of
from sdlora.adapters.adapter_layers import FileLayer, FileLayers, file_layers
from sdlora.adapters.file_header import FileHeader, read_file_header
from sdlora.adapters.key_roles import EMBEDDING
from sdlora.adapters.layer_paths import place_of
from sdlora.adapters.lora_places import PEFT_CONFIG, layout_of, weight_files
from sdlora.adapters.lora_readers import verdicts
from sdlora.adapters.peft_config import (
    DIFFUSERS_CONFIG,
    DamagedConfigError,
    alpha_in,
    config_of_part,
    json_mapping,
)

Key = TypeVar("Key")

KINDS = {
    "cross-attention": (".attn2.", ".cross_attn."),
    "self-attention": (".attn1.", ".self_attn.", ".attn.", ".attention."),
    "feed-forward": (".ff.", ".mlp.", ".ffn.", ".feed_forward."),
    "projections": (".proj_in", ".proj_out", "text_projection"),
    "embeddings": ("time_emb", "add_embedding"),
    "norms": ("norm",),
    "convolutions": ("conv",),
}
"""Kind of layer -> substrings of its name; the first match counts."""

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
"""Folders of peft's adapters of a Stable Diffusion."""

_BITS = {"BF16": "bfloat16", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_PREFIXES = re.compile(r"(?:base_model\.model\.)?(?:diffusion_model|transformer|unet|model)\.")


@dataclass(frozen=True, slots=True)
class PartFacts:
    """Facts of one part of a model.

    Attributes:
        adapters: Kind of adapter, with its variant -> number of layers.
        kinds: Kind of layer -> number of adapted layers.
        ranks: Rank -> number of layers; layers without one are left out.
        alphas: Effective alpha -> number of layers, of those that have a rank.
        layers: Names of the layers.
    """

    adapters: dict[str, int]
    kinds: dict[str, int]
    ranks: dict[int, int]
    alphas: dict[float, int]
    layers: list[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A LoRA file.

    Attributes:
        path: The file, or its folder.
        num_bytes: Size of all its weight files.
        layout: ``diffusers``, ``kohya`` or ``peft``.
        dtypes: Dtypes of its matrices.
        family: Whose LoRA it is.
        family_source: What says so: its layers, or only its header.
        parts: By name.
        unknown: What is of no adapter, one line each.
        trigger_words: Words that its header names, and those of bundled embeddings.
        readers: Program -> what it makes of the file.
        metadata: The complete strings of the header.
    """

    path: str
    num_bytes: int
    layout: str
    dtypes: list[str]
    family: str
    family_source: str
    parts: dict[str, PartFacts]
    unknown: list[str]
    trigger_words: list[str]
    readers: dict[str, str]
    metadata: dict[str, str]


def inspect_lora(path: Path) -> FileFacts:
    """Inspect a LoRA file or folder of any layout, by headers alone.

    Raises:
        LoraError: If it cannot be read.
    """
    headers = [read_file_header(file) for file in weight_files(path, PARTS)]
    named = {_own_part(header): header for header in headers}
    contents = {
        part: file_layers({k: t.shape for k, t in header.tensors.items()}, header.metadata)
        for part, header in named.items()
    }
    metadata = {key: value for header in headers for key, value in header.metadata.items()}
    first = next(iter(contents.values()))
    family = max((each.family for each in contents.values()), key=lambda each: each.is_certain)
    parts: dict[str, PartFacts] = {}
    for own, content in contents.items():
        parts |= _parts(named[own], content, own)
    config = _config(named, first)
    return FileFacts(
        path=str(path),
        num_bytes=sum(header.path.stat().st_size for header in headers),
        layout=layout_of(key for header in headers for key in header.tensors),
        dtypes=sorted({_dtype(t.dtype) for h in headers for t in h.tensors.values()}),
        family=family.title,
        family_source="header" if family.by_header else "layers",
        parts=parts,
        unknown=[line for content in contents.values() for line in content.unknown],
        trigger_words=trigger_words(metadata, (k for h in headers for k in h.tensors)),
        readers=verdicts(first, config) if len(headers) == 1 else {},
        metadata=metadata,
    )


def kind_of_layer(layer: str) -> str:
    """The kind of a layer by its name; ``others`` if none of ``KINDS`` matches."""
    for kind, marks in KINDS.items():
        if any(mark in f".{layer}." for mark in marks):
            return kind
    return "others"


def block_of(layer: str) -> str:
    """The block of a layer: the first names up to and with a number."""
    match = re.match(r"(?:encoder\.layers\.\d+|\w+?\.\d+|\w+)", layer)
    return match[0] if match else layer


def base_of(metadata: Mapping[str, str]) -> str | None:
    """The base model of a file according to its header."""
    named = metadata.get("ss_sd_model_name"), metadata.get("ss_base_model_version")
    found = [name for name in named if name]
    return " / ".join(found) or metadata.get("modelspec.architecture")


def trigger_words(metadata: Mapping[str, str], keys: Iterable[str]) -> list[str]:
    """Words that call what was trained.

    Args:
        metadata: The header's strings: ModelSpec's phrase, and kohya's folders ``REPEATS_WORDS``.
        keys: Keys of the file, for embeddings in it.
    """
    found = [metadata.get("modelspec.trigger_phrase", "")]
    for key in ("ss_tag_frequency", "ss_dataset_dirs"):
        try:
            folders = json.loads(metadata.get(key, "{}"))
        except json.JSONDecodeError:
            continue
        names = folders if isinstance(folders, dict) else {}
        found += [match[1] for name in names if (match := re.match(r"\d+_(.+)", str(name)))]
    found += [match["word"] for key in keys if (match := EMBEDDING.match(key))]
    return [word for word in dict.fromkeys(found) if word]


def _own_part(header: FileHeader) -> str | None:
    """The part that a peft folder is of, by its name."""
    name = header.path.parent.name
    is_peft = (header.path.parent / PEFT_CONFIG).is_file()
    return name if is_peft and name in PARTS else None


def _config(named: Mapping[str | None, FileHeader], content: FileLayers) -> bool:
    """Whether a config in a header says an alpha that no tensor says."""
    has_alpha = any("alpha" in layer.keys for layer in content.layers.values())
    return not has_alpha and any(DIFFUSERS_CONFIG in h.metadata for h in named.values())


def _parts(header: FileHeader, content: FileLayers, own: str | None) -> dict[str, PartFacts]:
    keys = [layer.keys["alpha"] for layer in content.layers.values() if "alpha" in layer.keys]
    alphas = header.scalars(keys)
    by_part: dict[str, dict[str, FileLayer]] = {}
    for name, layer in content.layers.items():
        part, target = _place(name, own)
        by_part.setdefault(part, {})[target] = layer
    order = [*PARTS, *by_part]
    return {
        part: _part_facts(by_part[part], alphas, _part_config(header, part))
        for part in dict.fromkeys(each for each in order if each in by_part)
    }


def _part_facts(
    layers: Mapping[str, FileLayer], alphas: Mapping[str, float], config: Mapping[str, Any]
) -> PartFacts:
    ranks: dict[str, int] = {}
    effective = []
    for name, layer in layers.items():
        rank = layer.kind.rank(layer.shapes)
        if rank is None:
            continue
        ranks[name] = rank
        said = alphas.get(layer.keys.get("alpha", ""), alpha_in(config, name))
        alpha = float(rank if said is None else said)
        effective.append(alpha * math.sqrt(rank) if config.get("use_rslora") else alpha)
    return PartFacts(
        adapters=_counts(title_of(layer.kind, layer.shapes) for layer in layers.values()),
        kinds=_counts(kind_of_layer(name) for name in layers),
        ranks=_counts(ranks.values()),
        alphas=_counts(effective),
        layers=list(layers),
    )


def _place(name: str, own: str | None) -> tuple[str, str]:
    """Part and layer, of a family that is not loaded here too."""
    stem = name.removeprefix("base_model.model.")
    where = place_of(f"{own}.{stem}" if own else stem)
    if where is not None:
        return where
    layer = _PREFIXES.sub("", name, count=1)
    return ("text_encoder" if re.match(r"text_encoder|lora_te", name) else "transformer"), layer


def _part_config(header: FileHeader, part: str) -> dict[str, Any]:
    beside = header.path.parent / PEFT_CONFIG
    try:
        if beside.is_file():
            return json_mapping(beside, beside.read_text("utf-8"))
        text = header.metadata.get(DIFFUSERS_CONFIG, "{}")
        return config_of_part(json_mapping(header.path, text), part)
    except DamagedConfigError:
        return {}


def _dtype(name: str) -> str:
    """torch's name of a dtype."""
    if name in _BITS:
        return _BITS[name]
    kind = {"F": "float", "I": "int", "U": "uint"}.get(name[:1], name)
    return f"{kind}{name[1:]}"


def _counts(values: Iterable[Key]) -> dict[Key, int]:
    return dict(Counter(values).most_common())
