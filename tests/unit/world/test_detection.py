"""A real detector sees the drawn faces, so that the real face path can run on them."""

import cv2
import numpy as np
from PIL import Image

from sdlora.world.portraits import HELD_OUT_SEEDS, portrait


def test_frontal_cascade_finds_most_faces() -> None:
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    found = 0
    for seed in HELD_OUT_SEEDS[:40]:
        enlarged = portrait(seed).image.resize((256, 256), Image.Resampling.BICUBIC)
        # scale step and neighbours of deepface's "opencv" detector
        found += len(cascade.detectMultiScale(np.asarray(enlarged)[..., ::-1].copy(), 1.1, 10)) > 0

    assert found >= 0.55 * 40
