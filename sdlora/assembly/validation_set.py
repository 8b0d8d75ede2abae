"""Typed config -> the validation loss: which pictures it is measured on."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from sdlora.assembly.device import DTYPES
from sdlora.config.train import TrainConfig
from sdlora.data.captions.recipe import sample_caption
from sdlora.data.pictures.cuts import cut_out, told_sizes
from sdlora.data.pictures.decode import PictureError, to_tensor, to_unit_range
from sdlora.data.pictures.picture import quoted
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sources.picture_source import DataError
from sdlora.models.family import Family
from sdlora.models.tokens import token_ids
from sdlora.runtime.progress import Progress
from sdlora.training.module import DiffusionModule
from sdlora.training.validation_loss import FixedSet, ValidationLoss

MOST_PICTURES = 32
"""So many held-out pictures, and as many training ones, are enough to see a curve turn."""


def validation_loss(
    config: TrainConfig,
    module: DiffusionModule,
    data: PictureSet,
    unseen: PictureSet | None,
    progress: Progress,
) -> ValidationLoss | None:
    """Measures the loss on unseen pictures beside trained ones; ``None`` without unseen ones."""
    if unseen is None or not unseen.geometry or not data.geometry:
        return None
    count = min(MOST_PICTURES, len(unseen.geometry), len(data.geometry))
    encode = partial(_fixed_set, config, module.family)
    with progress.working("encoding validation pictures"):
        return ValidationLoss(
            module.family,
            module.objective,
            encode(unseen, _evenly(len(unseen.geometry), count)),
            encode(data, _evenly(len(data.geometry), count)),
            seed=config.seed,
            precision=DTYPES[config.trainer.precision],
        )


def _fixed_set(
    config: TrainConfig, family: Family, data: PictureSet, numbers: Sequence[int]
) -> FixedSet:
    recipe = replace(config.data.captions, dropout=0.0)
    pictures = [data.source.pictures[number] for number in numbers]
    captions = [
        sample_caption(recipe, picture.text, picture.prefix, config.seed, number)
        for number, picture in zip(numbers, pictures, strict=True)
    ]
    moments = []
    for number, picture in zip(numbers, pictures, strict=True):
        try:
            image = data.source.image(number)
        except PictureError as error:
            raise DataError(f"{quoted(picture.name)} (held out): {error}") from error
        pixels = to_tensor(cut_out(image, data.geometry[number]))
        moments.append(family.encode_images(to_unit_range(pixels)[None])[0].cpu())
    cuts = [data.geometry[number] for number in numbers]
    sizes = told_sizes([picture.size for picture in pictures], cuts, torch.zeros(len(cuts)))
    ids = token_ids(family.tokenizers, config.data.captions.max_chunks, captions)
    return FixedSet(moments, ids, sizes)


def _evenly(count: int, most: int) -> list[int]:
    return [place * count // most for place in range(most)]
