"""Pictures and prompts -> all scores; one that fails is None with a reason, never 0."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from sdlora.evaluation.picture_mean import PictureMean
from sdlora.evaluation.scores import Scores
from sdlora.runtime.progress import Progress

Prior = tuple[Sequence[Image.Image], Sequence[Image.Image]]
"""Pictures of the class by the base and by the scored model, of equal prompts and noise."""


class Unavailable(Exception):
    """Why a score cannot be measured; becomes its reason."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures to score.

    Attributes:
        images: The pictures.
        prompts: Their prompts; None for pictures of other programs.
        are_training: Whether these are the training pictures, whose similarity to themselves means
            nothing.
        prior: Pictures of the class, without the trigger word, by the base and by the scored model:
            of the same prompts and noise, in the same order.

    Raises:
        ValueError: If the numbers of pictures and prompts differ.
    """

    images: Sequence[Image.Image]
    prompts: Sequence[str] | None = None
    are_training: bool = False
    prior: Prior | None = None

    def __post_init__(self) -> None:
        if self.prompts is not None and len(self.prompts) != len(self.images):
            raise ValueError(
                f"{len(self.images)} pictures but {len(self.prompts)} prompts; give one each."
            )


@dataclass(frozen=True, slots=True)
class KnownPictures:
    """Reference or training pictures, which others are compared with.

    Attributes:
        names: Names for messages and reports, one for each picture.
        images: The pictures.
    """

    names: Sequence[str] = ()
    images: Sequence[Image.Image] = ()

    def __post_init__(self) -> None:
        if len(self.names) != len(self.images):
            raise ValueError(f"{len(self.images)} pictures but {len(self.names)} names.")


@dataclass(slots=True)
class Measured:
    """Results of a scorer; the fields are those of :class:`sdlora.evaluation.scores.Scores`."""

    values: dict[str, float | int | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    per_picture: dict[str, Sequence[Any]] = field(default_factory=dict)

    def add(self, name: str, metric: PictureMean, is_by_picture: bool = True) -> None:
        """Add a metric's mean and interval, and its number for each picture if it has them."""
        self.values[name] = float(metric.compute())
        self.intervals[name] = metric.interval()
        if is_by_picture:
            self.per_picture[name] = metric.each().tolist()

    def lack(self, name: str, reason: str) -> None:
        """Note that a score cannot be measured, and why."""
        self.values[name] = None
        self.reasons[name] = reason


class PictureScorer(Protocol):
    """A family of scores: models are loaded once, known pictures are embedded once."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the scores that it always measures."""

    def score(self, pictures: Pictures, progress: Progress) -> Measured:
        """Score at least one picture.

        Raises:
            Unavailable: If none of its scores can be measured.
        """


@dataclass(frozen=True, slots=True)
class Absent:
    """Replacement of a scorer that could not be loaded: its scores are None, with the reason."""

    names: Sequence[str]
    reason: str

    def score(self, pictures: Pictures, progress: Progress) -> Measured:
        """Raise the reason."""
        raise Unavailable(self.reason)


class Scorer:
    """Scores pictures by all configured scorers.

    Args:
        scorers: One for each family of scores.
    """

    def __init__(self, scorers: Sequence[PictureScorer]) -> None:
        self._scorers = list(scorers)

    def not_taken(self) -> dict[str, list[str]]:
        """Why scorers could not be loaded -> the scores that are lost."""
        lost: dict[str, list[str]] = {}
        for scorer in self._scorers:
            if isinstance(scorer, Absent):
                lost.setdefault(scorer.reason, []).extend(scorer.names)
        return lost

    def score(self, pictures: Pictures, progress: Progress | None = None) -> Scores:
        """Score pictures; a scorer that fails loses its own scores, and the run continues.

        Args:
            pictures: Pictures to score.
            progress: Shows bars and prints notes.
        """
        progress = progress or Progress(enabled=False)
        prompts = pictures.prompts
        whole = Measured(per_picture={} if prompts is None else {"prompt": list(prompts)})
        for scorer in self._scorers:
            found = _attempt(scorer, pictures, progress)
            whole.values |= found.values
            whole.reasons |= found.reasons
            whole.intervals |= found.intervals
            whole.per_picture |= found.per_picture
        return Scores(
            len(pictures.images), whole.values, whole.reasons, whole.intervals, whole.per_picture
        )


def _attempt(scorer: PictureScorer, pictures: Pictures, progress: Progress) -> Measured:
    try:
        if not pictures.images:
            raise Unavailable("there is no picture to score")
        return scorer.score(pictures, progress)
    except Unavailable as error:
        reason = str(error)
    except Exception as error:  # a library's failure while scoring must not end hours of training
        reason = f"{type(error).__name__}: {error}"
    return _nothing(scorer.names, reason)


def _nothing(names: Sequence[str], reason: str) -> Measured:
    return Measured(values=dict.fromkeys(names), reasons=dict.fromkeys(names, reason))
