"""Face distance and cosine to known faces, and the face embedder of the drawn world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sdlora.evaluation.picture_mean import PictureMean
from sdlora.evaluation.strangers import RIGHT_ANGLE, Stranger
from sdlora.world.convolutions import square_pixels


@dataclass(frozen=True, slots=True)
class Faces:
    """One face for each picture.

    Attributes:
        vectors: Identity embeddings, unit rows, zero where no face was found; ``[n, D]``, float32.
        counts: How many faces the picture shows, ``[n]``, int64.
    """

    vectors: Tensor
    counts: Tensor

    @property
    def found(self) -> Tensor:
        """Whether the picture shows a face, ``[n]``, bool."""
        return self.counts > 0


class FaceModel(Protocol):
    """Embeds the face of each picture."""

    @property
    def stranger(self) -> Stranger | None:
        """An unrelated person's face, for pictures without one; None if not known."""

    def embed(self, images: Sequence[Image.Image]) -> Faces:
        """Embed one face a picture, on the CPU; no picture is left out."""


class TinyFace:
    """The project's own embedder for the drawn world (``sdlora.world.face``).

    Args:
        folder: A folder that ``FaceEmbedder.from_pretrained`` reads.
        device: Where it runs.
        batch_size: Pictures in a batch.
        threshold: Smallest face probability of a picture with a face, in (0, 1).
    """

    stranger: Stranger | None = RIGHT_ANGLE

    def __init__(
        self,
        folder: Path | str,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        threshold: float = 0.5,
    ) -> None:
        from sdlora.world.face import FaceEmbedder

        self._embedder = FaceEmbedder.from_pretrained(folder).to(device).eval()
        self._device = torch.device(device)
        self._batch_size = batch_size
        self._threshold = threshold

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image]) -> Faces:
        """Embed pictures of any size; they are cropped to a square and reduced to 64 pixels."""
        vectors: list[Tensor] = []
        probabilities: list[Tensor] = []
        for start in range(0, len(images), self._batch_size):
            chunk = images[start : start + self._batch_size]
            pixels = torch.stack([square_pixels(image) for image in chunk])
            output = self._embedder(pixels.to(self._device))
            vectors.append(output.vectors.float().cpu())
            probabilities.append(output.face_probability.float().cpu())
        if not vectors:
            return no_faces()
        return as_faces(torch.cat(vectors), torch.cat(probabilities) >= self._threshold)


def no_faces() -> Faces:
    """The faces of no pictures."""
    return Faces(vectors=torch.zeros(0, 1), counts=torch.zeros(0, dtype=torch.int64))


def as_faces(vectors: Tensor, counts: Tensor) -> Faces:
    """Scale embeddings to unit length and blank those without a face.

    Args:
        vectors: Embeddings, not normalised, ``[n, D]``.
        counts: How many faces there are, ``[n]``, int64 or bool.

    Raises:
        ValueError: If the embedding of a found face is zero, NaN or infinite.
    """
    vectors = vectors.float()
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    counts = counts.long()
    broken = (counts > 0) & ~(torch.isfinite(lengths) & (lengths > 0))
    if broken.any():
        raise ValueError(
            f"face embeddings of pictures {broken.nonzero().flatten().tolist()} are zero, NaN or "
            "infinite; check the face model's weights."
        )
    units = F.normalize(vectors, dim=1)
    return Faces(vectors=torch.where(counts[:, None] > 0, units, 0.0), counts=counts)


def face_distances(
    faces: Faces, references: Tensor, faceless: float = RIGHT_ANGLE.distance
) -> Tensor:
    """Mean distance of each face to all references.

    Args:
        faces: The pictures' faces.
        references: Unit rows, ``[R, D]``.
        faceless: The value of a picture without a face.

    Returns:
        Mean of ``|v - r|`` over the references, ``[n]``, in [0, 2] (0: the same face).

    Source:
        The face similarity of NTU GenAI 2024, homework 10, save for the faceless pictures.
    """
    if not len(faces.vectors):
        return torch.zeros(0)
    if not faces.found.any():
        return torch.full(faces.found.shape, faceless)
    # the matrix product that cdist takes for many rows loses small distances
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(faces.vectors, references, compute_mode=exact).mean(dim=1)
    return torch.where(faces.found, distances, faceless)


class FaceDistance(PictureMean):
    """Mean face distance of pictures to known faces; lower is closer.

    Args:
        references: Unit rows, ``[R, D]``, R >= 1.
        faceless: The value of a picture without a face, in [0, 2].

    Raises:
        ValueError: If there is no reference or one is not of unit length.
    """

    higher_is_better = False

    def __init__(self, references: Tensor, faceless: float = RIGHT_ANGLE.distance) -> None:
        super().__init__()
        self._references = _unit_rows(references)
        self._faceless = faceless

    def update(self, faces: Faces) -> None:
        """Add the faces of pictures."""
        self.take(face_distances(faces, self._references, self._faceless))


class FaceCosine(PictureMean):
    """Mean cosine of pictures' faces with known faces, in [-1, 1]; higher is closer.

    Args:
        references: Unit rows, ``[R, D]``, R >= 1.
        faceless: The value of a picture without a face, in [-1, 1].

    Raises:
        ValueError: If there is no reference or one is not of unit length.
    """

    higher_is_better = True

    def __init__(self, references: Tensor, faceless: float = RIGHT_ANGLE.cosine) -> None:
        super().__init__()
        self._references = _unit_rows(references)
        self._faceless = faceless

    def update(self, faces: Faces) -> None:
        """Add the faces of pictures."""
        if not faces.found.any():  # no features, so no width
            self.take(torch.full((len(faces.counts),), self._faceless))
        else:
            cosines = (faces.vectors @ self._references.T).mean(dim=1)
            self.take(torch.where(faces.found, cosines, self._faceless))


def _unit_rows(references: Tensor) -> Tensor:
    if references.ndim != 2 or not len(references):
        raise ValueError("references: no face to compare with; give pictures that show one.")
    lengths = torch.linalg.vector_norm(references, dim=1)
    if not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3):
        raise ValueError("references: rows must have unit length; use as_faces().")
    return references.float()
