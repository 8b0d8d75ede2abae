"""Detection of the face in a picture, by deepface's detectors."""

import hashlib
import os
import warnings
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from sdlora.runtime.files import sha256
from sdlora.weights.face_files import (
    DETECTORS,
    described_faults,
    file_faults,
    weights_folder,
)

Box = tuple[int, int, int, int]
"""Left, top, width, height in pixels."""

DETECTOR_WEIGHTS: dict[str, tuple[str, ...]] = {
    name: DETECTORS[name].files for name in ("opencv", "ssd", "yunet", "centerface")
}
"""Detector that needs no library of its own -> files it reads."""

MIN_SIDE_PX = 256
"""Smaller pictures are enlarged for the detectors, which miss faces of a few dozen pixels."""

MAX_SIDE_PX = 1024
"""Larger pictures are reduced: a portrait's face stays large, and detection is fast."""

# deepface keeps one detector a process, and OpenCV's cascades cannot be used by two threads
ONE_AT_A_TIME = Lock()


def require_detector(detector: str) -> None:
    """Check that a detector is known and its files are present; downloads nothing.

    Raises:
        ValueError: On an unknown name, or if a file is missing or damaged; it names the files and
            the remedy.
    """
    if detector not in DETECTOR_WEIGHTS:
        known = ", ".join(DETECTOR_WEIGHTS)
        raise ValueError(f"data.face_detector={detector}: unknown; choose one of {known}.")
    if faults := file_faults(DETECTOR_WEIGHTS[detector]):
        raise ValueError(
            f"data.face_detector={detector}: {described_faults(faults)}; get it once, with "
            f"network: sdlora fetch data.crop=face data.face_detector={detector} (the folder can "
            "be copied from another machine), or set data.face_detector=opencv, which needs no file"
        )


def detector_mark(detector: str) -> str:
    """What tells the boxes of a detector from those of another file of it: a hash of its files.

    Those of opencv come with that library, whose version it is.

    Args:
        detector: A key of :data:`DETECTOR_WEIGHTS` whose files are there.
    """
    files = DETECTOR_WEIGHTS[detector]
    if not files:
        import cv2

        return cv2.__version__
    return hashlib.sha256("".join(sha256(weights_folder() / f) for f in files).encode()).hexdigest()


def find_face(image: Image.Image, detector: str) -> Box | None:
    """The largest face in a picture.

    Args:
        image: Upright, any mode, any size.
        detector: A key of :data:`DETECTOR_WEIGHTS`.

    Returns:
        Its box in pixels of ``image``, inside it; ``None`` if no face is found.

    Raises:
        ValueError: If the detector cannot be used, see :func:`require_detector`.
    """
    require_detector(detector)
    shown = resized_for_detector(image)
    bgr = np.ascontiguousarray(np.array(shown)[:, :, ::-1])
    # importing deepface or RetinaFace silences all warnings of the process
    with ONE_AT_A_TIME, warnings.catch_warnings():
        # enforce_detection=True would raise for a faceless picture; False gives confidence 0
        found = deepface().extract_faces(
            bgr, detector_backend=detector, enforce_detection=False, align=False
        )
    areas = [face["facial_area"] for face in found if face["confidence"] != 0]
    boxes = [(area["x"], area["y"], area["w"], area["h"]) for area in areas]
    if not boxes:
        return None
    # of two equally large the upper left: detectors that run in threads give them in any order
    largest = min(boxes, key=lambda box: (-box[2] * box[3], box[1], box[0]))
    return _scaled_back(largest, shown.size, image.size)


def resized_for_detector(image: Image.Image) -> Image.Image:
    """RGB, within :data:`MIN_SIDE_PX` and :data:`MAX_SIDE_PX` in its own aspect."""
    factor = max(MIN_SIDE_PX / min(image.size), 1.0)
    factor = min(factor, MAX_SIDE_PX / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    rgb = image.convert("RGB")
    return rgb if size == image.size else rgb.resize(size, Image.Resampling.BICUBIC)


def _scaled_back(box: Box, shown: tuple[int, int], size: tuple[int, int]) -> Box:
    across, down = size[0] / shown[0], size[1] / shown[1]
    left, top = round(box[0] * across), round(box[1] * down)
    right, bottom = round((box[0] + box[2]) * across), round((box[1] + box[3]) * down)
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    return left, top, max(1, min(right, size[0]) - left), max(1, min(bottom, size[1]) - top)


def deepface() -> Any:
    """The ``DeepFace`` class on its PyTorch backend; importing it takes seconds."""
    # read once a process, before the first use; otherwise tensorflow wins where it is installed
    os.environ.setdefault("DEEPFACE_BACKEND_ENGINE", "pytorch")
    from deepface import DeepFace

    return DeepFace
