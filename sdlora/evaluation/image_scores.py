"""Scorer of whole pictures by their features: similarity, diversity, copying, KID, prior drift."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sdlora.evaluation.image_features import ImageFeatures
from sdlora.evaluation.kid import kid
from sdlora.evaluation.scoring import KnownPictures, Measured, Pictures
from sdlora.evaluation.similarity import Copying, Diversity, ImageSimilarity, PriorDrift
from sdlora.runtime.progress import Progress

SIMILARITY, DIVERSITY, COPYING, KID = "image_similarity", "diversity", "copying", "kid"


def image_names(with_kid: bool) -> tuple[str, ...]:
    """Names of the scores that :class:`ImageScorer` always measures."""
    return (SIMILARITY, DIVERSITY, COPYING, *((KID,) if with_kid else ()))


@dataclass(slots=True)
class ImageScorer:
    """Scores pictures by their features; references and training pictures are embedded once.

    Attributes:
        features: Embeds pictures.
        references: Pictures of the person, preferably held out; may be empty.
        training: The training pictures, for the detection of copies; may be empty.
        with_kid: Whether to measure the kernel distance to the references, too.
    """

    features: ImageFeatures
    references: KnownPictures
    training: KnownPictures
    with_kid: bool = False
    _known: dict[str, Tensor] = field(default_factory=dict, init=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its scores."""
        return image_names(self.with_kid)

    def score(self, pictures: Pictures, progress: Progress) -> Measured:
        """Score pictures."""
        measured = Measured()
        vectors = self.features.embed(pictures.images)
        self._compare_with_references(measured, vectors)
        self._diversity(measured, vectors, pictures.prompts)
        if not pictures.are_training:
            self._compare_with_training(measured, vectors)
        if pictures.prior is not None:
            drift = PriorDrift()
            drift.update(*(self.features.embed(images) for images in pictures.prior))
            measured.add("prior_drift", drift, is_by_picture=False)
        return measured

    def _compare_with_references(self, measured: Measured, vectors: Tensor) -> None:
        if not self.references.images:
            for name in (SIMILARITY, *((KID,) if self.with_kid else ())):
                measured.lack(name, "there are no reference pictures to compare with")
            return
        references = self._vectors("references", self.references)
        metric = ImageSimilarity(references)
        metric.update(vectors)
        measured.add(SIMILARITY, metric)
        if self.with_kid:
            found = kid(vectors, references)
            if found is None:
                measured.lack(KID, "needs two pictures and two references")
            else:
                measured.values[KID], measured.intervals[KID] = found

    def _diversity(
        self, measured: Measured, vectors: Tensor, prompts: Sequence[str] | None
    ) -> None:
        metric = Diversity()
        if prompts is not None:
            metric.update(vectors, prompts)
        if len(metric.each()):
            measured.add(DIVERSITY, metric, is_by_picture=False)
        else:
            measured.lack(DIVERSITY, "no prompt was drawn with two seeds")

    def _compare_with_training(self, measured: Measured, vectors: Tensor) -> None:
        if not self.training.images:
            measured.lack(COPYING, "there are no training pictures to compare with")
            return
        training = self._vectors("training", self.training)
        metric = Copying(training)
        metric.update(vectors)
        nearest = [self.training.names[number] for number in metric.nearest]
        measured.per_picture["training_similarity"] = metric.similarity
        measured.per_picture["nearest_training"] = nearest
        measured.values["largest_training_similarity"] = max(metric.similarity)
        if self.references.images and self.references is not self.training:
            likeness = ImageSimilarity(training)
            likeness.update(vectors)
            measured.add(f"{SIMILARITY}_training", likeness)
        if metric.yardstick is None:
            measured.lack(COPYING, "there are no two different training pictures")
            return
        measured.values["copying_yardstick"] = metric.yardstick
        measured.add(COPYING, metric)

    def _vectors(self, what: str, known: KnownPictures) -> Tensor:
        if what not in self._known:
            self._known[what] = self.features.embed(known.images)
        return self._known[what]
