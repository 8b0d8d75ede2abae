"""Picture files decoded to upright RGB, and pictures fitted to the training square."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Endings of the files that are taken for pictures, in any letter case."""

MAX_PIXELS = 178_956_970
"""Pillow's own limit against decompression bombs; from half of it on, Pillow warns."""

# By content, since endings lie; no format here runs another program (EPS would run Ghostscript).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_SIXTEEN_TO_EIGHT_BIT = 257.0  # 65535 / 255


class PictureError(ValueError):
    """A picture file that cannot be used; the message is the reason and the remedy."""


def read_picture(path: Path, min_side_px: int = 1) -> Image.Image:
    """Decode a picture file the way a viewer shows it.

    Turned upright by its EXIF orientation, transparent parts over white, 16 bits a channel scaled
    to 8 (Pillow alone clips them to white), first frame of an animation.

    Args:
        path: A file in PNG, JPEG, WebP, BMP or GIF format, whatever its ending.
        min_side_px: Smallest width and height that are accepted.

    Returns:
        The picture, mode ``RGB``.

    Raises:
        PictureError: If it is not such a file, cut off or damaged, too small, or so large (more
            than ``MAX_PIXELS``) that decoding it is refused.
        OSError: If it cannot be opened at all.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _check_size(image.size, min_side_px)
            return to_rgb(ImageOps.exif_transpose(image))
    except (PictureError, FileNotFoundError, PermissionError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"has more than {MAX_PIXELS} pixels, a decompression bomb or a scan; reduce it"
        ) from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        reason = str(error).replace(str(path), path.name)
        raise PictureError(f"cannot be decoded ({reason}); replace or remove it") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB: transparency over white, 16 bits scaled to 8."""
    if image.mode in _SIXTEEN_BIT_MODES:
        return _from_sixteen_bit(image)
    if image.has_transparency_data:
        rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def fit_square(image: Image.Image, side_px: int, anchor: tuple[float, float]) -> Image.Image:
    """Cut the largest square out of a picture and resize it (Lanczos), in one pass.

    Args:
        image: Mode ``RGB``.
        side_px: Side of the result.
        anchor: Where the square lies along width and height: 0 left or top, 0.5 centre, 1 right or
            bottom.
    """
    if image.size == (side_px, side_px):
        return image
    return ImageOps.fit(image, (side_px, side_px), Image.Resampling.LANCZOS, centering=anchor)


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> uint8 ``[3, H, W]``."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def to_unit_range(pixels: Tensor) -> Tensor:
    """Pixels 0..255 of any integer type -> float32 in [-1, 1], as the VAE was trained on."""
    return pixels.to(torch.float32) / 127.5 - 1.0


def _check_size(size: tuple[int, int], min_side_px: int) -> None:
    if min(size) < min_side_px:
        raise PictureError(
            f"is {size[0]}x{size[1]} pixels, its shorter side below {min_side_px}; "
            "use a larger version or remove it"
        )


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    grey = np.asarray(image).astype(np.int64)
    if (transparent := image.info.get("transparency")) is not None:
        grey = np.where(grey == transparent, 65_535, grey)
    eight_bit = np.clip(np.rint(grey / _SIXTEEN_TO_EIGHT_BIT), 0, 255).astype(np.uint8)
    return Image.fromarray(eight_bit).convert("RGB")
