"""Inspection of a LoRA file: layers, ranks, alphas, norms, finiteness."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from sdlora.adapters.arithmetic import update_norm
from sdlora.adapters.formats import read_lora
from sdlora.adapters.lora_file import LoraFile

Key = TypeVar("Key")

KINDS = {
    "cross-attention": (".attn2.",),
    "self-attention": (".attn1.", ".self_attn."),
    "feed-forward": (".ff.", ".mlp."),
    "projections": (".proj_in", ".proj_out", "text_projection"),
    "embeddings": ("time_emb", "add_embedding"),
    "convolutions": ("conv",),
}
"""Kind of layer -> substrings of its name; the first match counts."""

NUM_STRONGEST = 3


@dataclass(frozen=True, slots=True)
class PartFacts:
    """Facts of one part of a model.

    Attributes:
        kinds: Kind of layer -> number of adapted layers.
        ranks: Rank -> number of layers.
        alphas: Effective alpha -> number of layers.
        is_dora: Whether magnitudes are trained too; norms do not include them.
        norm: Frobenius norm of the whole part's update, ``alpha / r * B @ A``; ``None``: not
            finite.
        strongest: Layers with the largest norms, in descending order.
        not_finite: Tensors that hold NaN or infinity.
    """

    kinds: dict[str, int]
    ranks: dict[int, int]
    alphas: dict[float, int]
    is_dora: bool
    norm: float | None
    strongest: dict[str, float]
    not_finite: list[str]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A LoRA file.

    Attributes:
        path: The file, or its folder.
        num_bytes: Size of all its weight files.
        layout: ``diffusers``, ``kohya`` or ``peft``.
        dtypes: Dtypes of its matrices.
        parts: By name.
        metadata: The complete strings of the header.
    """

    path: str
    num_bytes: int
    layout: str
    dtypes: list[str]
    parts: dict[str, PartFacts]
    metadata: dict[str, str]

    @property
    def is_finite(self) -> bool:
        """Whether it holds neither NaN nor infinity."""
        return not any(part.not_finite for part in self.parts.values())


def inspect_lora(path: Path) -> FileFacts:
    """Inspect a LoRA file or folder of any layout; NaN and infinity are reported, not refused.

    Raises:
        LoraError: If it cannot be read, or holds keys that are no LoRA.
    """
    lora = read_lora(path, must_be_finite=False)
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    dtypes = {str(t.dtype) for state in lora.states.values() for t in state.values()}
    return FileFacts(
        path=str(path),
        num_bytes=sum(file.stat().st_size for file in files),
        layout=lora.layout,
        dtypes=sorted(name.removeprefix("torch.") for name in dtypes),
        parts={part: part_facts(lora, part) for part in lora.states},
        metadata=lora.metadata,
    )


def part_facts(lora: LoraFile, part: str) -> PartFacts:
    """The facts of one part of a LoRA."""
    layers = lora.layers(part)
    norms = {name: update_norm(layer) for name, layer in layers.items()}
    not_finite = [
        key for key, value in lora.states[part].items() if not torch.isfinite(value.float()).all()
    ]
    strongest = sorted(norms, key=lambda name: -norms[name])[:NUM_STRONGEST]
    squared = sum(norm**2 for norm in norms.values())
    return PartFacts(
        kinds=_counts(kind_of(name) for name in layers),
        ranks=_counts(layer["A"].shape[0] for layer in layers.values()),
        alphas=_counts(layer["alpha"].item() for layer in layers.values()),
        is_dora=lora.specs[part].use_dora,
        norm=None if not_finite else squared**0.5,
        strongest={} if not_finite else {name: norms[name] for name in strongest},
        not_finite=not_finite,
    )


def kind_of(layer: str) -> str:
    """The kind of a layer by its name; ``others`` if none of ``KINDS`` matches."""
    for kind, marks in KINDS.items():
        if any(mark in f".{layer}" for mark in marks):
            return kind
    return "others"


def base_of(metadata: Mapping[str, str]) -> str | None:
    """The base model of a file according to its header."""
    named = metadata.get("ss_sd_model_name"), metadata.get("ss_base_model_version")
    found = [name for name in named if name]
    return " / ".join(found) or metadata.get("modelspec.architecture")


def _counts(values: Iterable[Key]) -> dict[Key, int]:
    return dict(Counter(values).most_common())
