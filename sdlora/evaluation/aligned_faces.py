"""Faces of a photo, found in it as it is and turned upright, by deepface's own functions.

``DeepFace.represent(align=True)`` surrounds a picture with a black border of half its size before
it looks for faces, which then are half as large: detectors that reduce pictures to a few hundred
pixels, such as ``ssd``, miss every second small face. Here the border is left out. deepface still
adds black pixels around a face at the edge, before it turns it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class AlignedFace:
    """One face.

    Attributes:
        left: Left edge of its box in the picture, in pixels.
        top: Upper edge.
        area_px: Area of the box.
        pixels: The face with both eyes on a level, BGR in [0, 1], ``[height, width, 3]``.
    """

    left: int
    top: int
    area_px: int
    pixels: Pixels


def aligned_faces(bgr: Pixels, detector: str) -> list[AlignedFace]:
    """All faces of a picture, in the detector's order; those without pixels are left out.

    Args:
        bgr: The picture, uint8, ``[height, width, 3]``.
        detector: deepface's name of it.

    Source:
        ``detect_faces`` and ``extract_faces`` of deepface 0.0.103 (modules/detection.py), without
        the border; a confidence that rounds to 0 counts as no face, as there.
    """
    from deepface.modules import modeling
    from deepface.modules.detection import extract_face

    found = []
    for area in modeling.build_model("face_detector", detector).detect_faces(bgr):
        if round(float(area.confidence or 0), 2) == 0:
            continue
        face = extract_face(
            facial_area=area,
            img=bgr,
            align=True,
            expand_percentage=0,
            width_border=0,
            height_border=0,
            detector_backend=detector,
        ).img
        if face.size:
            # of a picture whose brightest value is 1 deepface takes it to be scaled already
            scaled = face / 255 if face.max() > 1 else face
            found.append(AlignedFace(int(area.x), int(area.y), int(area.w * area.h), scaled))
    return found
