"""Conversion of colours to sRGB by the picture's ICC profile."""

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

_ROUNDING = 1  # of 255: no profile of sRGB gives back every value exactly


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a picture to sRGB, perceptual intent; sRGB pictures are unchanged.

    Without a profile, or with one that is damaged or made for other channels, grey and RGB are read
    as sRGB, and CMYK is converted by the formula ``(1 - ink) * (1 - black)``, as viewers do.

    Args:
        image: Mode ``L``, ``RGB`` or ``CMYK`` (255 is full ink).
        profile: The bytes of the ICC profile.

    Returns:
        A new picture, mode ``RGB``.
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB")
    return transform.apply(image)


@lru_cache(maxsize=16)  # building one takes as long as converting a megapixel
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform to sRGB; ``None`` if nothing changes or the profile cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(
            source, srgb, mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # also for other channels
        return None
    return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether the profile is that of sRGB, whatever its name: tested on 4096 colours."""
    levels = np.linspace(0, 255, 16).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3)
    probe = Image.fromarray(colours).convert(mode)
    before = np.asarray(probe.convert("RGB"), dtype=np.int16)
    after = np.asarray(transform.apply(probe), dtype=np.int16)
    return bool(np.abs(after - before).max() <= _ROUNDING)
