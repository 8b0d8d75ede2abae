"""Metric and scorer of followed prompts on the drawn world: the named attributes that are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image

from sdlora.evaluation.picture_mean import PictureMean
from sdlora.evaluation.scoring import Measured, Pictures, Unavailable
from sdlora.runtime.progress import Progress
from sdlora.world.attributes import FOLLOWED, AttributeClassifier
from sdlora.world.convolutions import square_pixels
from sdlora.world.portraits import attributes_named

PROMPT_FOLLOWED = "prompt_followed"


class PromptFollowed(PictureMean):
    """Mean share of the attributes named in a prompt that its picture shows; higher is better.

    Attributes are background, shirt, hair, hat, glasses and kind; a share is in [0, 1].
    """

    higher_is_better = True

    def update(self, shares: Sequence[float | None]) -> None:
        """Add the shares of pictures; those without one, whose prompts name none, do not count."""
        known = [share for share in shares if share is not None]
        self.take(torch.tensor(known, dtype=torch.float64))


@dataclass(slots=True)
class PromptFollowedScorer:
    """Scores pictures of the drawn world against their prompts.

    Attributes:
        classifier: Reads them.
        batch_size: Pictures that it reads at once, >= 1.
    """

    classifier: AttributeClassifier
    batch_size: int = 64
    names: ClassVar[tuple[str, ...]] = (PROMPT_FOLLOWED,)

    def score(self, pictures: Pictures, progress: Progress) -> Measured:
        """Score pictures against their prompts."""
        if pictures.prompts is None:
            raise Unavailable("there are no prompts to compare with")
        shares = self._shares(pictures.images, pictures.prompts)
        if all(share is None for share in shares):
            raise Unavailable(f"no prompt names {', '.join(FOLLOWED[:-1])} or {FOLLOWED[-1]}")
        metric, measured = PromptFollowed(), Measured()
        metric.update(shares)
        measured.add(PROMPT_FOLLOWED, metric, is_by_picture=False)
        measured.per_picture[PROMPT_FOLLOWED] = shares
        return measured

    def _shares(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float | None]:
        """The share of each picture; None where its prompt names no attribute."""
        named = [_named(prompt) for prompt in prompts]
        judged = [image for image, each in zip(images, named, strict=True) if each]
        seen = iter(self._seen(judged))
        return [_share(each, next(seen)) if each else None for each in named]

    def _seen(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        """The attributes that pictures show."""
        found = []
        for start in range(0, len(images), self.batch_size):
            chunk = images[start : start + self.batch_size]
            pixels = torch.stack([square_pixels(image) for image in chunk])
            found += self.classifier.predict(pixels.to(self.classifier.device))
        return found


def _named(prompt: str) -> dict[str, str]:
    return {name: value for name, value in attributes_named(prompt).items() if name in FOLLOWED}


def _share(named: Mapping[str, str], seen: Mapping[str, str]) -> float:
    return sum(seen[name] == value for name, value in named.items()) / len(named)
