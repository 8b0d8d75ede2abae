"""Face distance: how far the faces of pictures are from a person's reference pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from sdlora.data.faces import DETECTOR_WEIGHTS, MIN_SIDE_PX, deepface, weights_folder

FACELESS_DISTANCE = math.sqrt(2.0)
"""What a picture without a face counts: the distance of orthogonal unit vectors, i.e. of a person
who has nothing to do with the references. Leaving such pictures out (or 0, the best distance there
is) would reward an adapter for destroying faces; the faceless count beside it tells them apart."""


@dataclass(frozen=True, slots=True)
class Faces:
    """One face for each picture.

    Attributes:
        vectors: Identity embeddings, unit rows, zero where no face was found; ``[n, D]``, float32.
        found: Whether the picture shows a face, ``[n]``, bool.
    """

    vectors: Tensor
    found: Tensor


class FaceModel(Protocol):
    """What embeds the face of each picture."""

    def embed(self, images: Sequence[Image.Image]) -> Faces:
        """Embed one face a picture, on the CPU; no picture is left out."""


class TinyFace:
    """The project's own embedder for the drawn world (``sdlora.world.face``).

    Args:
        folder: A folder that ``FaceEmbedder.from_pretrained`` reads.
        device: Where it runs.
        batch_size: Pictures at a time.
        threshold: Face probability from which on a picture counts as showing a face, in (0, 1).
    """

    side_px = 64

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
            pixels = torch.stack([self._pixels(image) for image in chunk])
            output = self._embedder(pixels.to(self._device))
            vectors.append(output.vectors.float().cpu())
            probabilities.append(output.face_probability.float().cpu())
        if not vectors:
            return no_faces()
        return as_faces(torch.cat(vectors), torch.cat(probabilities) >= self._threshold)

    def _pixels(self, image: Image.Image) -> Tensor:
        side = (self.side_px, self.side_px)
        square = ImageOps.fit(image.convert("RGB"), side, Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1.0


DEEPFACE_WEIGHTS = {
    "ArcFace": ("arcface_weights.pth",),
    "Facenet": ("facenet_weights.pth",),
    "Facenet512": ("facenet512_weights.pth",),
    "GhostFaceNet": ("ghostfacenet_v1.pth",),
    "OpenFace": ("openface_weights.pth",),
    "VGG-Face": ("vgg_face_weights.pth",),
}
"""deepface model -> files its PyTorch backend reads (deepface 0.0.103, `models/`)."""


class DeepFaceModel:
    """Real faces: a detector, then a recognition network, both by deepface on PyTorch.

    Of several faces in a picture the largest counts. A picture in which the detector finds none
    is faceless; its whole-picture embedding, which deepface would give, is not used.

    Args:
        model_name: A key of :data:`DEEPFACE_WEIGHTS`.
        detector: A key of :data:`sdlora.data.faces.DETECTOR_WEIGHTS`.

    Raises:
        ValueError: On an unknown name.
    """

    def __init__(self, model_name: str = "GhostFaceNet", detector: str = "ssd") -> None:
        for key, name, known in (
            ("model_name", model_name, DEEPFACE_WEIGHTS),
            ("detector", detector, DETECTOR_WEIGHTS),
        ):
            if name not in known:
                raise ValueError(f"{key}={name}: unknown; choose one of {', '.join(known)}.")
        self.model_name = model_name
        self.detector = detector

    def require_weights(self) -> None:
        """Check that deepface will find its weight files; costs nothing, downloads nothing.

        Raises:
            ValueError: If a file is missing or empty; it names the file and the two ways on.
        """
        folder = weights_folder()
        wanted = DEEPFACE_WEIGHTS[self.model_name] + DETECTOR_WEIGHTS[self.detector]
        paths = [folder / name for name in wanted]
        missing = [p.name for p in paths if not p.is_file() or not p.stat().st_size]
        if missing:
            raise ValueError(
                f"face model {self.model_name} with detector {self.detector}: missing "
                f"{' and '.join(missing)} in {folder}; either let deepface download it once with "
                'network (python -c "from deepface import DeepFace; DeepFace.build_model('
                f"'{self.model_name}'); DeepFace.build_model('{self.detector}', "
                "'face_detector')\"), or copy it there from another machine (DEEPFACE_HOME chooses "
                "the folder that holds .deepface/weights)."
            )

    def embed(self, images: Sequence[Image.Image]) -> Faces:
        """Embed the largest face of each picture; a ValueError if weight files are missing."""
        if not images:
            return no_faces()
        self.require_weights()
        library = deepface()
        rows = [self._embed_one(library, image) for image in images]
        size = next((len(row) for row in rows if row is not None), 1)
        vectors = torch.tensor([[0.0] * size if row is None else row for row in rows])
        return as_faces(vectors, torch.tensor([row is not None for row in rows]))

    def _embed_one(self, library: Any, image: Image.Image) -> list[float] | None:
        bgr = np.ascontiguousarray(np.array(_large_enough(image))[:, :, ::-1])
        # enforce_detection=True would raise for a faceless picture; False gives confidence 0
        found = library.represent(
            bgr,
            model_name=self.model_name,
            detector_backend=self.detector,
            enforce_detection=False,
        )
        faces = [face for face in found if face["face_confidence"] != 0]
        if not faces:
            return None
        largest = max(faces, key=lambda face: face["facial_area"]["w"] * face["facial_area"]["h"])
        return list(largest["embedding"])


def _large_enough(image: Image.Image) -> Image.Image:
    factor = max(MIN_SIDE_PX / min(image.size), 1.0)
    size = (round(image.width * factor), round(image.height * factor))
    rgb = image.convert("RGB")
    return rgb if size == image.size else rgb.resize(size, Image.Resampling.BICUBIC)


def no_faces() -> Faces:
    """The answer to no pictures."""
    return Faces(vectors=torch.zeros(0, 1), found=torch.zeros(0, dtype=torch.bool))


def as_faces(vectors: Tensor, found: Tensor) -> Faces:
    """Scale embeddings to unit length and blank those without a face.

    Args:
        vectors: Embeddings of any length, ``[n, D]``.
        found: Whether there is a face, ``[n]``, bool.

    Raises:
        ValueError: If the embedding of a found face is zero, NaN or infinite.
    """
    vectors = vectors.float()
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    broken = found & ~(torch.isfinite(lengths) & (lengths > 0))
    if broken.any():
        raise ValueError(
            f"face embeddings of pictures {broken.nonzero().flatten().tolist()} are zero, NaN or "
            "infinite; check the face model's weights."
        )
    units = F.normalize(vectors, dim=1)
    return Faces(vectors=torch.where(found[:, None], units, 0.0), found=found)


def face_distances(faces: Faces, references: Tensor) -> Tensor:
    """Mean distance of each face to all references.

    Args:
        faces: The pictures' faces.
        references: Unit rows, ``[R, D]``.

    Returns:
        Mean of ``|v - r|`` over the references, ``[n]``, in [0, 2] (0: the same face); a picture
        without a face gets :data:`FACELESS_DISTANCE`.

    Source:
        The face similarity of NTU GenAI 2024, homework 10, save for the faceless pictures.
    """
    if not len(faces.vectors):
        return torch.zeros(0)
    if not faces.found.any():
        return torch.full(faces.found.shape, FACELESS_DISTANCE)
    # the matrix product that cdist takes for many rows loses small distances
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(faces.vectors, references, compute_mode=exact).mean(dim=1)
    return torch.where(faces.found, distances, FACELESS_DISTANCE)


class FaceDistance(Metric):
    """Mean face distance of pictures to references; lower is closer.

    Args:
        references: Unit rows, ``[R, D]``, R >= 1.

    Raises:
        ValueError: If there is no reference or one is not of unit length.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    references: Tensor
    distance_sum: Tensor
    num_pictures: Tensor
    num_faceless: Tensor

    def __init__(self, references: Tensor) -> None:
        super().__init__()
        if references.ndim != 2 or not len(references):
            raise ValueError("references: no face to compare with; give pictures that show one.")
        lengths = torch.linalg.vector_norm(references, dim=1)
        if not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3):
            raise ValueError("references: rows must have unit length; use as_faces().")
        self.register_buffer("references", references.float(), persistent=False)
        self.add_state("distance_sum", torch.tensor(0.0, dtype=torch.float64), "sum")
        self.add_state("num_pictures", torch.tensor(0), "sum")
        self.add_state("num_faceless", torch.tensor(0), "sum")

    def update(self, faces: Faces) -> None:
        """Take in the faces of some pictures."""
        distances = face_distances(faces, self.references.cpu())
        self.distance_sum += distances.double().sum().to(self.distance_sum.device)
        self.num_pictures += len(faces.found)
        self.num_faceless += int((~faces.found).sum())

    def compute(self) -> Tensor:
        """Mean distance over all pictures; NaN (torch's 0/0) before the first."""
        return self.distance_sum / self.num_pictures
