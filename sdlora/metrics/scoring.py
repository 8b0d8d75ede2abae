"""Pictures and prompts -> all scores; one that cannot be had is None with a reason, never 0."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from PIL import Image
from torch import Tensor

from sdlora.metrics.clip import ClipScore
from sdlora.metrics.face import FaceDistance, FaceModel, face_distances
from sdlora.metrics.image_features import ImageFeatures
from sdlora.metrics.image_scores import NAMES as IMAGE_SCORES
from sdlora.metrics.image_scores import ImageScorer, ImageScores
from sdlora.metrics.interval import bootstrap_interval
from sdlora.progress import Progress

Value = TypeVar("Value")
Prompts = Sequence[str] | None


@dataclass(frozen=True, slots=True)
class PictureScores:
    """The scores of one picture; None where there is none (see :class:`Scores`.reasons).

    Attributes:
        prompt: What it should show, if a prompt was given.
        face_distance: Mean distance to the references, in [0, 2]; sqrt(2) without a face.
        has_face: Whether a face was found.
        clip_score: 100 * cosine with the prompt, in [0, 100].
        image_similarity: Mean cosine of its features with the references', in [-1, 1].
        training_similarity: Largest cosine of its features with a training picture's, in [-1, 1].
        nearest_training: Which training picture that is, counted from 0.
    """

    prompt: str | None
    face_distance: float | None
    has_face: bool | None
    clip_score: float | None
    image_similarity: float | None = None
    training_similarity: float | None = None
    nearest_training: int | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a list of pictures.

    Attributes:
        num_pictures: How many were scored.
        face_distance: Mean over all pictures, in [0, 2], lower is closer; a picture without a face
            counts sqrt(2) (``metrics.face.FACELESS_DISTANCE``).
        faceless: Pictures without a face.
        clip_score: Mean of 100 * cosine, in [0, 100], higher is closer.
        reasons: Score name -> why it is None.
        per_picture: In the order of the pictures.
        image_similarity: Mean cosine of features with the references', in [-1, 1], higher is
            closer.
        diversity: Mean of 1 - cosine between pictures of one prompt, in [0, 2], higher is more
            varied.
        copying: Share of pictures taken for copies of a training picture
            (:func:`sdlora.metrics.similarity.copying`), in [0, 1], lower is better.
        copying_yardstick: The largest cosine between two different training pictures.
        intervals: Score name -> ends of the 95 % bootstrap interval of its mean over the pictures.
    """

    num_pictures: int
    face_distance: float | None
    faceless: int | None
    clip_score: float | None
    reasons: Mapping[str, str] = field(default_factory=dict)
    per_picture: tuple[PictureScores, ...] = ()
    image_similarity: float | None = None
    diversity: float | None = None
    copying: float | None = None
    copying_yardstick: float | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def values(self) -> dict[str, float | int | None]:
        """Score name -> number, as it is logged; the optional ones where they were asked for."""
        optional = {name: getattr(self, name) for name in IMAGE_SCORES}
        return {
            "face_distance": self.face_distance,
            "faceless": self.faceless,
            "clip_score": self.clip_score,
            **{n: v for n, v in optional.items() if v is not None or n in self.reasons},
        }


def load_or_reason(
    factory: Callable[[], Value], name: str, missing: dict[str, str]
) -> Value | None:
    """Build a scorer's model, or note in ``missing`` why it is not there and give None.

    Args:
        factory: What builds the model.
        name: ``"face"``, ``"clip"`` or ``"image"``.
        missing: Gets ``name`` -> reason on a failure; hand it to :class:`Scorer`.
    """
    try:
        return factory()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        missing[name] = f"{type(error).__name__}: {error}"
        return None


class Unavailable(Exception):
    """Why a score cannot be had; becomes its reason."""


@dataclass(frozen=True, slots=True)
class FaceScores:
    """What the face model says of each picture, and the mean."""

    distances: list[float]
    found: list[bool]
    mean: float


@dataclass(frozen=True, slots=True)
class ClipScores:
    """What the CLIP model says of each picture, and the mean of it."""

    scores: list[float]
    signed: list[float]  # those not raised to 0, which the mean is taken of
    mean: float

    def interval(self) -> tuple[float, float]:
        """Of the mean, which is itself at least 0."""
        low, high = bootstrap_interval(self.signed)
        return max(low, 0.0), max(high, 0.0)


class Scorer:
    """Scores pictures against one person's reference pictures and their prompts.

    References and training pictures are embedded at the first scoring and kept.

    Args:
        face: What embeds faces; None leaves the face scores out.
        clip: The CLIP score; None leaves it out.
        references: Pictures of the person, best ones that were not trained on.
        reference_names: Their names, for messages; their numbers if left out.
        missing: ``"face"``, ``"clip"`` or ``"image"`` -> why that model is None.
        features: What embeds pictures as a whole; None leaves image similarity, diversity and
            copying out.
        training: The training pictures, which copies are looked for among.

    Attributes:
        faceless_references: Names of references that show no face and are left out; known after
            the first scoring.
    """

    def __init__(
        self,
        face: FaceModel | None,
        clip: ClipScore | None,
        references: Sequence[Image.Image],
        *,
        reference_names: Sequence[str] | None = None,
        missing: Mapping[str, str] | None = None,
        features: ImageFeatures | None = None,
        training: Sequence[Image.Image] = (),
    ) -> None:
        names = [f"#{i}" for i in range(len(references))]
        self._face = face
        self._clip = clip
        self._references = list(references)
        self._names = names if reference_names is None else list(reference_names)
        self._missing = dict(missing or {})
        self._vectors: Tensor | None = None
        self._images = ImageScorer(features, self._references, list(training)) if features else None
        self.faceless_references: tuple[str, ...] = ()
        if len(self._names) != len(self._references):
            raise ValueError("reference_names: give one for each reference.")

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str] | None,
        progress: Progress | None = None,
    ) -> Scores:
        """Score pictures; a model that fails costs its own score, not the run.

        Args:
            images: The pictures.
            prompts: One for each picture, or None where there are none (real pictures, say).
            progress: Where a bar counts the pictures.

        Raises:
            ValueError: If the numbers of pictures and prompts differ.
        """
        if prompts is not None and len(prompts) != len(images):
            raise ValueError(f"{len(images)} pictures but {len(prompts)} prompts; give one each.")
        progress = progress or Progress(enabled=False)
        reasons: dict[str, str] = {}
        face, reason = _attempt(lambda: self._score_faces(images))
        if reason:
            reasons.update(face_distance=reason, faceless=reason)
        clip, reason = _attempt(lambda: self._score_clip(images, prompts, progress))
        if reason:
            reasons.update(clip_score=reason)
        image, reason = _attempt(lambda: self._score_image(list(images), prompts))
        if reason:
            reasons.update(dict.fromkeys(IMAGE_SCORES, reason))
        reasons.update(image.reasons if image else {})
        similarity, copies = (image.similarity, image.copies) if image else (None, None)
        each = {
            "face_distance": face.distances if face else None,
            "image_similarity": similarity,
        }
        intervals = {name: bootstrap_interval(values) for name, values in each.items() if values}
        if clip:
            intervals["clip_score"] = clip.interval()
        nothing = [None] * len(images)
        rows = zip(
            prompts or nothing,
            face.distances if face else nothing,
            face.found if face else nothing,
            clip.scores if clip else nothing,
            similarity or nothing,
            copies.similarity.tolist() if copies else nothing,
            copies.nearest.tolist() if copies else nothing,
            strict=True,
        )
        return Scores(
            num_pictures=len(images),
            face_distance=face.mean if face else None,
            faceless=face.found.count(False) if face else None,
            clip_score=clip.mean if clip else None,
            reasons=reasons,
            per_picture=tuple(PictureScores(*row) for row in rows),
            image_similarity=sum(similarity) / len(similarity) if similarity else None,
            diversity=image.diversity if image else None,
            copying=copies.share if copies else None,
            copying_yardstick=copies.yardstick if copies else None,
            intervals=intervals,
        )

    def _score_faces(self, images: Sequence[Image.Image]) -> FaceScores:
        if self._face is None:
            raise Unavailable(self._missing.get("face", "no face model was asked for"))
        if not images:
            raise Unavailable("there is no picture to score")
        references = self._reference_vectors(self._face)
        faces = self._face.embed(images)
        metric = FaceDistance(references)
        metric.update(faces)
        return FaceScores(
            distances=face_distances(faces, references).tolist(),
            found=faces.found.tolist(),
            mean=float(metric.compute()),
        )

    def _reference_vectors(self, face: FaceModel) -> Tensor:
        if self._vectors is None:
            if not self._references:
                raise Unavailable("there are no reference pictures to compare with")
            faces = face.embed(self._references)
            shown = zip(self._names, faces.found.tolist(), strict=True)
            self.faceless_references = tuple(name for name, found in shown if not found)
            self._vectors = faces.vectors[faces.found]
        if not len(self._vectors):
            raise Unavailable(f"none of the {len(self._references)} references shows a face")
        return self._vectors

    def _score_clip(
        self, images: Sequence[Image.Image], prompts: Prompts, progress: Progress
    ) -> ClipScores:
        if self._clip is None:
            raise Unavailable(self._missing.get("clip", "no CLIP model was asked for"))
        if prompts is None:
            raise Unavailable("there are no prompts to compare with")
        if not images:
            raise Unavailable("there is no picture to score")
        self._clip.reset()
        pairs = list(zip(images, prompts, strict=True))
        scores: list[float] = []
        sums = [0.0]
        for image, prompt in progress.track(pairs, "CLIP score"):
            scores.append(float(self._clip([image], [prompt])))
            sums.append(float(self._clip.score))
        signed = [after - before for before, after in pairwise(sums)]
        return ClipScores(scores=scores, signed=signed, mean=float(self._clip.compute()))

    def _score_image(self, images: list[Image.Image], prompts: Prompts) -> ImageScores:
        if self._images is None:  # no reason where it was not asked for
            raise Unavailable(self._missing.get("image", ""))
        if not images:
            raise Unavailable("there is no picture to score")
        return self._images.score(images, prompts)


def _attempt(compute: Callable[[], Value]) -> tuple[Value | None, str]:
    try:
        return compute(), ""
    except Unavailable as reason:
        return None, str(reason)
    except Exception as error:  # a library's failure while scoring must not end hours of training
        return None, f"{type(error).__name__}: {error}"
