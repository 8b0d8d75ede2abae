"""Faces in photos, by deepface's detectors and recognition networks on PyTorch."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdlora.data.pictures.faces import ONE_AT_A_TIME, deepface, resized_for_detector
from sdlora.evaluation.aligned_faces import AlignedFace, aligned_faces
from sdlora.evaluation.face_metric import Faces, as_faces, no_faces
from sdlora.evaluation.strangers import STRANGERS
from sdlora.weights.face_files import (
    DEFAULT_DETECTOR,
    DEFAULT_MODEL,
    DETECTORS,
    MODELS,
    described_faults,
    file_faults,
    library_fault,
)


@dataclass(frozen=True, slots=True)
class FirstFaces:
    """deepface's first result for each picture, a face or not.

    Attributes:
        vectors: Embeddings of the network, not normalised; of the whole picture where no face was
            found; zero without any; ``[n, D]``, float32.
        confidences: Confidence of the detector, rounded to 2 digits as deepface does; 0 where it
            found no face; ``[n]``, float64.
    """

    vectors: Tensor
    confidences: Tensor


class DeepFaceModel:
    """Real faces: a detector, then a recognition network, both by deepface on PyTorch.

    The largest of several faces in a picture counts, of two equal ones the upper left one. A
    picture in which the detector finds none (deepface's confidence 0) is faceless; its
    whole-picture embedding, which deepface would give, is not used.

    deepface chooses the device by itself: ``cuda:0`` if there is one, otherwise the CPU. With
    several GPUs score in one process only.

    Args:
        model_name: A key of ``MODELS`` in ``sdlora/weights/face_files.py``.
        detector: A key of ``DETECTORS`` there.
        batch_size: Pictures whose faces are embedded in one batch, >= 1. Faces are detected in one
            picture at a time.

    Raises:
        ValueError: On an unknown name or a batch size below 1.
    """

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        detector: str = DEFAULT_DETECTOR,
        batch_size: int = 32,
    ) -> None:
        for key, name, known in (
            ("model_name", model_name, MODELS),
            ("detector", detector, DETECTORS),
        ):
            if name not in known:
                raise ValueError(f"{key}={name}: unknown; choose one of {', '.join(known)}.")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1.")
        self.model_name = model_name
        self.detector = detector
        self.stranger = STRANGERS.get(model_name)
        self._batch_size = batch_size

    def require_weights(self) -> None:
        """Check that deepface can run both parts; loads and downloads nothing.

        Raises:
            ValueError: If a library is not installed, a weight file is missing or damaged, or
                deepface is configured for another backend than PyTorch; the message gives the
                remedy.
        """
        self._require_pytorch()
        self._require_libraries()
        files = MODELS[self.model_name].files + DETECTORS[self.detector].files
        if faults := file_faults(files):
            raise ValueError(
                f"face model {self.model_name} with detector {self.detector}: "
                f"{described_faults(faults)}; get it once, with network: sdlora fetch "
                "evaluation.face=deepface "
                f"evaluation.face.options.model_name={self.model_name} "
                f"evaluation.face.options.detector={self.detector} (the folder can be copied from "
                "another machine; DEEPFACE_HOME chooses the one that holds .deepface/weights)"
            )

    def embed(self, images: Sequence[Image.Image]) -> Faces:
        """Embed the largest face of each picture, and count its faces.

        Pictures below 256 pixels are enlarged for the detector, those above 1024 reduced; no border
        is added (``aligned_faces.py``).

        Raises:
            ValueError: As :meth:`require_weights` does.
        """
        if not images:
            return no_faces()
        self.require_weights()
        counts: list[int] = []
        rows: list[list[float] | None] = []
        for start in range(0, len(images), self._batch_size):
            # importing deepface or RetinaFace silences all warnings of the process
            with ONE_AT_A_TIME, warnings.catch_warnings():
                library = deepface()
                found = [
                    aligned_faces(_bgr(resized_for_detector(image)), self.detector)
                    for image in images[start : start + self._batch_size]
                ]
                largest = [min(faces, key=_largest_first) for faces in found if faces]
                vectors = iter(self._vectors(library, [face.pixels for face in largest]))
            counts += [len(faces) for faces in found]
            rows += [next(vectors) if faces else None for faces in found]
        return as_faces(_stacked(rows), torch.tensor(counts))

    def first_faces(self, images: Sequence[Image.Image]) -> FirstFaces:
        """What ``DeepFace.represent(..., enforce_detection=False)[0]`` says of each picture.

        Pictures are not resized.

        Raises:
            ValueError: As :meth:`require_weights` does.
        """
        if not images:
            return FirstFaces(torch.zeros(0, 1), torch.zeros(0, dtype=torch.float64))
        self.require_weights()
        found = self._represent(images, _bgr)
        rows = [faces[0]["embedding"] if faces else None for faces in found]
        confidences = [float(faces[0]["face_confidence"]) if faces else 0.0 for faces in found]
        return FirstFaces(_stacked(rows), torch.tensor(confidences, dtype=torch.float64))

    def _vectors(self, library: Any, faces: list[np.ndarray]) -> list[list[float]]:
        """Embeddings of faces that are cut out already."""
        if not faces:
            return []
        found = library.represent(
            faces,
            model_name=self.model_name,
            detector_backend="skip",
            enforce_detection=False,
            align=False,
        )
        return (
            [each["embedding"] for each in found]
            if len(faces) == 1
            else [each[0]["embedding"] for each in found]
        )

    def _represent(
        self, images: Sequence[Image.Image], pixels: Callable[[Image.Image], np.ndarray]
    ) -> list[list[dict[str, Any]]]:
        """What deepface finds in each picture: faces, or the whole picture with confidence 0."""
        found: list[list[dict[str, Any]]] = []
        for start in range(0, len(images), self._batch_size):
            chunk = [pixels(image) for image in images[start : start + self._batch_size]]
            # importing deepface or RetinaFace silences all warnings of the process
            with ONE_AT_A_TIME, warnings.catch_warnings():
                found += _represent_chunk(deepface(), chunk, self.model_name, self.detector)
        return found

    def _require_pytorch(self) -> None:
        engine = os.environ.get("DEEPFACE_BACKEND_ENGINE") or "pytorch"
        if engine.strip().lower() != "pytorch":
            raise ValueError(
                f"DEEPFACE_BACKEND_ENGINE={engine}: face scores need pytorch and its weight files; "
                "unset the variable."
            )

    def _require_libraries(self) -> None:
        for key, name, needs in (
            ("model_name", self.model_name, MODELS[self.model_name]),
            ("detector", self.detector, DETECTORS[self.detector]),
        ):
            if (lacking := library_fault(key, name, needs)) is not None:
                raise ValueError(lacking)


def _represent_chunk(
    library: Any, chunk: list[np.ndarray], model_name: str, detector: str
) -> list[list[dict[str, Any]]]:
    try:
        # enforce_detection=True would raise for a faceless picture; False gives confidence 0
        found = library.represent(
            chunk,
            model_name=model_name,
            detector_backend=detector,
            enforce_detection=False,
        )
    except ValueError as error:
        # of faces without pixels, at a picture's edge, nothing is left to embed
        if "need at least one array to concatenate" not in str(error):
            raise
        return [[] for _ in chunk]
    # deepface returns a list of one picture like that picture alone
    return [found] if len(chunk) == 1 else list(found)


def _largest_first(face: AlignedFace) -> tuple[int, int, int]:
    return -face.area_px, face.top, face.left


def _stacked(rows: Sequence[list[float] | None]) -> Tensor:
    width = next((len(row) for row in rows if row is not None), 1)
    return torch.tensor([[0.0] * width if row is None else row for row in rows])


def _bgr(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.array(image.convert("RGB"))[:, :, ::-1])
