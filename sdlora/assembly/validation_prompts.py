"""Typed config -> the prompts of a run's validation pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sdlora.config.sampling import CAPTIONS
from sdlora.config.train import TrainConfig
from sdlora.data.captions.recipe import sample_caption
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sources.picture_source import CLASS_PICTURES
from sdlora.sampling.prompts import Prompt, distinct_captions, prior_prompts, prompts_of


@dataclass(frozen=True, slots=True)
class ValidationPrompts:
    """What a run draws.

    Attributes:
        captions: The captions that the prompts are; empty if they are those of a file.
        drawn: Every prompt with every seed.
        prior: Prompts of the prior drift.
    """

    captions: Sequence[str]
    drawn: Sequence[Prompt]
    prior: Sequence[Prompt]


def validation_prompts(
    config: TrainConfig, data: PictureSet, held_out: PictureSet | None
) -> ValidationPrompts:
    """The prompts of a run, once its pictures are known.

    Raises:
        ConfigError: If there are none, or none with a trigger word that they need.
    """
    captions: Sequence[str] = ()
    if config.sampling.prompts == CAPTIONS:
        sets = [data] if held_out is None else [held_out, data]
        found = (distinct_captions(_texts(config, each), config.sampling) for each in sets)
        captions = next((each for each in found if each), ())
    drawn = prompts_of(config.sampling, captions)
    return ValidationPrompts(
        captions, drawn, prior_prompts(config.sampling, config.evaluation, captions)
    )


def _texts(config: TrainConfig, data: PictureSet) -> Iterator[str]:
    """Captions as training makes them, whole and in order; those of class pictures are left out."""
    recipe = replace(config.data.captions, dropout=0.0, tag_dropout=0.0, shuffle=False)
    for number, picture in enumerate(data.source.pictures):
        if not picture.name.startswith(CLASS_PICTURES):
            yield sample_caption(recipe, picture.text, picture.prefix, config.seed, number)
