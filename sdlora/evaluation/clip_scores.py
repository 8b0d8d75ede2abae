"""Scorer of pictures against their prompts by CLIP, one by one and as a mean."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from sdlora.evaluation.clip_metric import ClipScore
from sdlora.evaluation.interval import bootstrap_interval
from sdlora.evaluation.scoring import Measured, Pictures, Unavailable
from sdlora.runtime.progress import Progress


@dataclass(slots=True)
class ClipScorer:
    """The CLIP score of all pictures, including those without a face.

    Attributes:
        metric: torchmetrics' CLIP score.
        reworded: Prompt -> text for CLIP, such as with the class word instead of the trigger word.
    """

    metric: ClipScore
    reworded: Callable[[str], str] = str
    names: ClassVar[tuple[str, ...]] = ("clip_score",)

    def score(self, pictures: Pictures, progress: Progress) -> Measured:
        """Score pictures against their prompts."""
        if pictures.prompts is None:
            raise Unavailable("there are no prompts to compare with")
        self.metric.reset()
        pairs = list(zip(pictures.images, map(self.reworded, pictures.prompts), strict=True))
        each: list[float] = []
        sums = [0.0]
        for image, prompt in progress.track(pairs, "CLIP score"):
            each.append(float(self.metric([image], [prompt])))
            sums.append(float(self.metric.score))
        # the mean is taken of signed cosines and then raised to 0, those of pictures each
        low, high = bootstrap_interval([after - before for before, after in pairwise(sums)])
        return Measured(
            values={"clip_score": float(self.metric.compute())},
            intervals={"clip_score": (max(low, 0.0), max(high, 0.0))},
            per_picture={"clip_score": each},
        )
