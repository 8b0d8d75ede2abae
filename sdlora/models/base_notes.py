"""Notes on a base before it is loaded: what its files say, and which of several is read."""

import re
from pathlib import Path

from sdlora.models.base_folder import is_distilled, weight_kinds
from sdlora.models.base_noise import BaseNoise
from sdlora.models.checkpoint_file import read_header
from sdlora.models.checkpoint_kind import EMA, UNET, VAE
from sdlora.models.families import description_of
from sdlora.models.source import (
    ModelSource,
    part_folder,
    resolve,
    single_file,
    weights_stem,
)

DISTILLED_NAME = re.compile(r"turbo|lightning|schnell|distill", re.IGNORECASE)
"""In names of models of few steps: the files of Z-Image Turbo have no other mark."""


def base_notes(source: ModelSource, noise: BaseNoise) -> list[str]:
    """Lines for the log; none for a base that leaves no choice.

    Args:
        source: Location of the base.
        noise: Its noise schedule.
    """
    says = ", ".join(map(str, noise.statements.values()))
    notes = [f"base: {source.path}: {says}"] if says else []
    notes += _distilled_notes(source)
    file = single_file(source)
    if file is None:
        return notes + _variant_notes(source)
    header = read_header(file)
    if header.has(EMA):
        notes.append(
            f"note: {file.name} holds EMA weights, too ({EMA}*); its weights named {UNET}* are read"
        )
    if source.vae is not None and header.has(VAE):
        notes.append(f"note: the VAE in {file.name} is not read: model.vae={source.vae} is")
    return notes


def _distilled_notes(source: ModelSource) -> list[str]:
    """A flow model that was distilled to few steps, as its pipeline says, or else its name."""
    if is_distilled(resolve(source)):
        what = "is distilled to draw in few steps"
    elif description_of(source.family).is_flow and DISTILLED_NAME.search(Path(source.path).name):
        what = "is distilled to draw in few steps, by its name"
    else:
        return []
    return [
        f"note: model.path={source.path}: {what}; a LoRA trained on it comes out grey or noisy: "
        f"train the base that it was made from, such as model={source.family} without model.path, "
        f"and draw with this one: model.draw_with={source.path}"
    ]


def _variant_notes(source: ModelSource) -> list[str]:
    """Which weight file of a part is read where there are several kinds, such as fp16."""
    folder = resolve(source)
    notes = []
    for part in description_of(source.family).parts:
        if part in source.scratch or (part == "vae" and source.vae is not None):
            continue
        place = part_folder(part, folder, source)
        stem = weights_stem(part)
        others = sorted(weight_kinds(part, place) - {source.variant or ""})
        if others:
            there = " and ".join(f"{stem}.{kind}" if kind else stem for kind in others)
            read = f"{stem}.{source.variant}" if source.variant else stem
            notes.append(
                f"note: {part}: {read}.safetensors is read; {there} is there, too (model.variant)"
            )
    return notes
