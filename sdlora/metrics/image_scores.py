"""Scores of picture features: similarity, diversity, copying; or why there is none."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from sdlora.metrics.image_features import ImageFeatures
from sdlora.metrics.similarity import Copies, copying, diversity, image_similarity

NAMES = ("image_similarity", "diversity", "copying")


@dataclass(slots=True)
class ImageScores:
    """What the features of some pictures say.

    Attributes:
        similarity: Mean cosine with the references, one a picture; None without references.
        diversity: Mean distance within a prompt; None without a prompt of two pictures.
        copies: Nearest training pictures; None without training pictures.
        reasons: Name in :data:`NAMES` -> why it is None.
    """

    similarity: list[float] | None = None
    diversity: float | None = None
    copies: Copies | None = None
    reasons: dict[str, str] = field(default_factory=dict)


class ImageScorer:
    """Scores pictures by their features; references and training are embedded once, and kept.

    Args:
        features: What embeds pictures.
        references: Pictures of the person.
        training: The training pictures.
    """

    def __init__(
        self,
        features: ImageFeatures,
        references: Sequence[Image.Image],
        training: Sequence[Image.Image],
    ) -> None:
        self._features = features
        self._references = references
        self._training = training
        self._reference_vectors: Tensor | None = None
        self._training_vectors: Tensor | None = None

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str] | None) -> ImageScores:
        """Score pictures, at least one.

        Args:
            images: The pictures.
            prompts: One for each picture, or None.
        """
        self._embed_known()
        vectors = self._features.embed(images)
        scores = ImageScores()
        if self._reference_vectors is None:
            scores.reasons["image_similarity"] = "there are no reference pictures to compare with"
        else:
            scores.similarity = image_similarity(vectors, self._reference_vectors).tolist()
        scores.diversity = None if prompts is None else diversity(vectors, prompts)
        if scores.diversity is None:
            scores.reasons["diversity"] = "no prompt was drawn with two seeds"
        if self._training_vectors is None:
            scores.reasons["copying"] = "there are no training pictures to compare with"
        else:
            scores.copies = copying(vectors, self._training_vectors)
            if scores.copies.share is None:
                scores.reasons["copying"] = "there are no two different training pictures"
        return scores

    def _embed_known(self) -> None:
        if self._reference_vectors is None and self._references:
            self._reference_vectors = self._features.embed(self._references)
        if self._training_vectors is None and self._training:
            self._training_vectors = self._features.embed(self._training)
