"""Decoding of picture files to upright 8-bit sRGB, alpha and masks."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageChops, ImageFile
from torch import Tensor

from sdlora.data.pictures.color_profiles import to_srgb
from sdlora.data.pictures.jxl_size import jxl_size
from sdlora.data.pictures.picture_formats import PictureError, reader

MAX_PIXELS = 178_956_970
"""Pillow's own limit against decompression bombs; from half of it on, Pillow warns."""

WHITE = "#ffffff"

_Transpose = Image.Transpose
_UPRIGHT = {
    2: _Transpose.FLIP_LEFT_RIGHT,
    3: _Transpose.ROTATE_180,
    4: _Transpose.FLIP_TOP_BOTTOM,
    5: _Transpose.TRANSPOSE,
    6: _Transpose.ROTATE_270,
    7: _Transpose.TRANSVERSE,
    8: _Transpose.ROTATE_90,
}
"""EXIF orientation (TIFF 6.0, tag 274) -> what undoes it."""

_TURNED_BY_READER = ("TIFF", "JXL")
"""Formats whose reader turns the picture itself, unless it is a JPEG packed as JPEG XL."""

_FIRST_ON_ITS_SIDE = 5  # from this orientation on, width and height are swapped

_SIXTEEN_BIT_WHITE = 65_535

# What may tell the orientation, as a PNG chunk begins: its type and, of texts, the keyword.
_PNG_METADATA = (
    b"eXIf",
    b"iTXtXML:com.adobe.xmp\0",
    b"zTXtRaw profile type exif\0",
    b"tEXtRaw profile type exif\0",
)
_PNG_SIGNATURE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a picture file without decoding it.

    Attributes:
        size: Width and height in pixels, upright (after the EXIF orientation).
        has_alpha: Whether it has an alpha channel or a transparent colour, used or not.
        is_animated: Whether it has more than one frame; the first one counts.
    """

    size: tuple[int, int]
    has_alpha: bool
    is_animated: bool


def read_header(file: Path | BinaryIO) -> Header:
    """Read the header of a picture file; only decoding shows whether the file is whole.

    Args:
        file: A file of a format of ``formats.py``, whatever its ending; a path, or open for
            reading.

    Raises:
        PictureError: If it is not such a file, or so large (more than ``MAX_PIXELS``) that
            decoding it is refused.
        OSError: If it cannot be opened or read at all.
    """
    with _opened(file) as (image, stream):
        if image.format == "PNG" and _tells_late(stream):
            image.load()
        width, height = image.size
        on_its_side = _orientation(image) >= _FIRST_ON_ITS_SIDE
        return Header(
            size=(height, width) if on_its_side else (width, height),
            has_alpha=image.has_transparency_data,
            # a phone's MPO holds a second view or a preview, which is no second frame
            is_animated=image.format != "MPO" and getattr(image, "is_animated", False),
        )


def read_picture(file: Path | BinaryIO, background: str = WHITE) -> Image.Image:
    """Decode a picture file the way a viewer shows it.

    Turned upright by its EXIF orientation, converted to sRGB by its colour profile, transparent
    parts over ``background``, 16 bits a channel scaled to 8 (Pillow alone clips grey to white),
    first frame of an animation.

    Args:
        file: As :func:`read_header` takes it.
        background: sRGB colour under transparent parts, as ``#rrggbb``.

    Returns:
        The picture, mode ``RGB``.

    Raises:
        PictureError: If it is not such a file, cut off or damaged, or too large.
        OSError: If it cannot be opened or read at all.
    """
    with _opened(file) as (image, _):
        colour, alpha = _channels(image)
        picture = to_srgb(colour, image.info.get("icc_profile"))
        if alpha is not None:
            below = Image.new("RGB", picture.size, background)
            picture = Image.composite(picture, below, alpha)
        return _upright(picture, image)


def read_alpha(file: Path | BinaryIO) -> Image.Image | None:
    """Decode how opaque a picture is: mode ``L``, upright, 255 opaque; ``None`` without alpha.

    Args:
        file: As :func:`read_header` takes it.

    Raises:
        PictureError: As :func:`read_picture` does.
        OSError: If it cannot be opened or read at all.
    """
    with _opened(file) as (image, _):
        if not image.has_transparency_data:
            return None
        _, alpha = _channels(image)
        return None if alpha is None else _upright(alpha, image)


def read_mask(file: Path | BinaryIO) -> Image.Image:
    """Decode a picture that is a mask: mode ``L``, upright; colours count by their luminance.

    The values are taken as they are: no colour profile is applied. What is transparent is black, as
    programs that paint masks save the white that was painted on nothing.

    Args:
        file: As :func:`read_header` takes it.

    Raises:
        PictureError: As :func:`read_picture` does.
        OSError: If it cannot be opened or read at all.
    """
    with _opened(file) as (image, _):
        colour, alpha = _channels(image)
        mask = colour.convert("L")
        return _upright(mask if alpha is None else ImageChops.multiply(mask, alpha), image)


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> uint8 ``[3, H, W]``."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def to_unit_range(pixels: Tensor) -> Tensor:
    """Pixels 0..255 of any integer type -> float32 in [-1, 1], as the VAE was trained on."""
    return pixels.to(torch.float32) / 127.5 - 1.0


@contextmanager
def _opened(file: Path | BinaryIO) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO]]:
    """Open a picture without decoding it; every failure inside the block is a ``PictureError``."""
    with ExitStack() as stack:
        stream = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
        try:
            if (declared := jxl_size(stream)) is not None:
                _check_size(declared)
            image = stack.enter_context(reader(stream))
            _check_size(image.size)
            _mend_transparency(image)
            yield image, stream
        except PictureError:
            raise
        except Image.DecompressionBombError as error:
            raise PictureError(_too_large("has")) from error
        except Exception as error:  # Pillow's readers raise nearly anything on damaged files
            if isinstance(error, OSError) and error.errno is not None:  # the disk's, not Pillow's
                raise
            reason = str(error) or type(error).__name__
            raise PictureError(f"cannot be decoded ({reason}); replace or remove it") from error


def _check_size(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise PictureError(_too_large(f"is {size[0]}x{size[1]},"))


def _too_large(what: str) -> str:
    return f"{what} more than {MAX_PIXELS} pixels, a decompression bomb or a scan; reduce it"


def _mend_transparency(image: ImageFile.ImageFile) -> None:
    """Bring a PNG's transparent colour to 8 bits: Pillow scales the pixels, but not that."""
    transparent = image.info.get("transparency")
    if image.format != "PNG" or transparent is None or not image.tile:
        return
    raw_mode = image.tile[0].args
    if raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = transparent * {"L;2": 85, "L;4": 17}[raw_mode]
    elif raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _channels(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours, mode ``L``, ``RGB`` or ``CMYK``, and opacity, mode ``L``; 8 bits each."""
    if image.mode == "F":
        raise PictureError("holds floating-point numbers, whose white is unknown; save it as PNG")
    if image.mode.startswith("I"):
        return _from_sixteen_bit(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        is_grey = image.mode in ("1", "L", "LA")
        colour = rgba.getchannel("R") if is_grey else rgba.convert("RGB")
        return colour, rgba.getchannel("A")
    if image.mode in ("L", "RGB", "CMYK"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _from_sixteen_bit(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    grey = np.asarray(image)
    if grey.max() > _SIXTEEN_BIT_WHITE:
        raise PictureError("holds 32 bits a pixel, whose white is unknown; save it as PNG")
    transparent = image.info.get("transparency")
    alpha = None if transparent is None else Image.fromarray((grey != transparent) * np.uint8(255))
    eight_bit = np.clip(np.rint(grey / (_SIXTEEN_BIT_WHITE / 255)), 0, 255).astype(np.uint8)
    return Image.fromarray(eight_bit), alpha


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    """A decoded picture turned by its source's EXIF orientation, and without that metadata."""
    turn = _UPRIGHT.get(_orientation(source))
    upright = image if turn is None else image.transpose(turn)
    upright.info.clear()
    return upright


def _orientation(image: Image.Image) -> int:
    if image.format in _TURNED_BY_READER and not getattr(image, "jpeg", False):
        return 1
    try:
        # not the PNG reader's own, which decodes the picture to look behind it
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata raises nearly anything; viewers do without it
        return 1
    return found if found in _UPRIGHT else 1


def _tells_late(stream: BinaryIO) -> bool:
    """Whether a PNG has metadata behind its pixels, which Pillow finds only by decoding."""
    before = stream.tell()
    stream.seek(_PNG_SIGNATURE_BYTES)
    is_behind = False
    try:
        while len(head := stream.read(40)) >= 8:
            start = head[4:]
            is_behind |= start.startswith(b"IDAT")
            if is_behind and start.startswith(_PNG_METADATA):
                return True
            length = int.from_bytes(head[:4], "big")
            stream.seek(length + 12 - len(head), 1)  # also length and CRC, 4 bytes each, and type
        return False
    finally:
        stream.seek(before)
