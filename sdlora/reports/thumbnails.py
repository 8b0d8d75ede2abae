"""Pictures as data URIs, reduced; each file is encoded once while it stays as it is."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

JPEG_QUALITY = 85
MAX_PNG_BYTES = 24 * 1024
"""Largest PNG; larger ones become JPEG."""

MAX_PNG_SIDE_PX = 128
"""Side of the square with the most pixels that may become a PNG."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture on the page: a data URI and its size in pixels."""

    uri: str
    width: int
    height: int


class Thumbnails:
    """Thumbnails of files, kept from one writing of a page to the next."""

    def __init__(self) -> None:
        self._made: dict[tuple[Path, int, int], tuple[tuple[int, int], Thumbnail]] = {}

    def of(self, path: Path, max_width: int, max_height: int) -> Thumbnail:
        """The picture, reduced to fit; one that was encoded before is not read again.

        Raises:
            OSError: If it cannot be read.
        """
        key, found = (path, max_width, max_height), path.stat()
        stamp = found.st_mtime_ns, found.st_size
        known = self._made.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        image = read_picture(path, max_width, max_height)
        made = Thumbnail(data_uri(image), image.width, image.height)
        self._made[key] = stamp, made
        return made


def data_uri(image: Image.Image, quality: int = JPEG_QUALITY) -> str:
    """The picture as PNG if that is small, else as JPEG."""
    buffer = io.BytesIO()
    kind = "png"
    if image.width * image.height <= MAX_PNG_SIDE_PX**2:
        image.save(buffer, "PNG", optimize=True)
    if not 0 < buffer.tell() <= MAX_PNG_BYTES:
        kind, buffer = "jpeg", io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def read_picture(path: Path, max_width: int, max_height: int) -> Image.Image:
    """Read a picture as RGB and reduce it to fit, keeping its shape.

    Raises:
        OSError: If it cannot be read.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f"{path.name}: {error}") from error
    image.thumbnail((max_width, max_height), Image.Resampling.LANCZOS)
    return image
