"""Typed config -> the validation loss and its fixed pictures."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from sdlora.assembly.device import DTYPES
from sdlora.config.captions import CaptionsConfig
from sdlora.data.captions.recipe import sample_caption
from sdlora.data.pictures.cuts import cut_out, size_conditioning
from sdlora.data.pictures.decode import to_tensor, to_unit_range
from sdlora.data.pictures.picture import quoted
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sources.picture_source import DataError
from sdlora.models.tokens import token_ids
from sdlora.runtime.progress import Progress
from sdlora.training.module import DiffusionModule
from sdlora.training.validation_loss import FixedSet, ValidationLoss

MOST_PICTURES = 32
"""Largest number of held-out pictures, and of training pictures, for the validation loss."""


def validation_loss(
    captions: CaptionsConfig,
    precision: str,
    module: DiffusionModule,
    data: PictureSet,
    held_out: PictureSet | None,
    progress: Progress,
) -> ValidationLoss | None:
    """The validation loss on held-out and training pictures; ``None`` without held-out ones.

    Args:
        captions: How captions are made; none is dropped here.
        precision: ``trainer.precision``.
        module: What trains.
        data: The pictures that are trained on.
        held_out: Those that are not.
        progress: Says what is going on.
    """
    if held_out is None or not held_out.geometry or not data.geometry:
        return None
    count = min(MOST_PICTURES, len(held_out.geometry), len(data.geometry))
    encode = partial(_fixed_set, replace(captions, dropout=0.0), module)
    with progress.working("encoding validation pictures"), module.family.called("vae"):
        return ValidationLoss(
            module.family,
            module.objective,
            encode(held_out, _evenly(len(held_out.geometry), count)),
            encode(data, _evenly(len(data.geometry), count)),
            seed=module.seed,
            precision=DTYPES[precision],
        )


def _fixed_set(
    recipe: CaptionsConfig, module: DiffusionModule, data: PictureSet, numbers: Sequence[int]
) -> FixedSet:
    family = module.family
    pictures = [data.source.pictures[number] for number in numbers]
    captions = [
        sample_caption(recipe, picture.text, picture.prefix, module.seed, number)
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
    sizes = size_conditioning([picture.size for picture in pictures], cuts, torch.zeros(len(cuts)))
    ids = token_ids(family.tokenizers, recipe.max_chunks, captions)
    return FixedSet(moments, ids, sizes)


def _evenly(count: int, most: int) -> list[int]:
    return [place * count // most for place in range(most)]
