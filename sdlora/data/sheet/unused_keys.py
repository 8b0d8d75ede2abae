"""Keys of ``data`` that have no effect on these very pictures and captions, as findings."""

from collections.abc import Iterator, Sequence

from sdlora.config.data import DataConfig
from sdlora.data.captions.recipe import split_tags
from sdlora.data.pictures.picture import WARNING, Finding, Picture


def unused_keys(pictures: Sequence[Picture], data: DataConfig) -> Iterator[Finding]:
    """A warning for each key that is not off and finds nothing to act on."""
    if data.source == "hub" and data.hub.streaming:
        return  # the first rows say nothing of the others
    recipe, texts = data.captions, [picture.text for picture in pictures]
    lacking = {
        "data.mask_weight": (
            data.mask_weight,
            not any(picture.has_mask for picture in pictures),
            "no picture has a mask (NAME.mask.png, or transparency with data.alpha=mask)",
        ),
        "data.captions.wildcards": (
            recipe.wildcards,
            not any("|" in text for text in texts),
            "no caption has {a|b}",
        ),
        "data.captions.lines": (
            recipe.lines != "all" and recipe.lines,
            not any("\n" in text for text in texts),
            "no caption has several lines",
        ),
        "data.captions.shuffle": (
            recipe.shuffle,
            not any(len(split_tags(recipe, text)) > 1 for text in texts),
            f"no caption has several tags, separated by {recipe.separator.strip()!r}",
        ),
    }
    for key, (value, is_unused, reason) in lacking.items():
        if value and is_unused and pictures:
            name = f"{key}={str(value).lower()}"
            yield Finding(name, "no_effect", f"has no effect: {reason}; leave it out", WARNING)
