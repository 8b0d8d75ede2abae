"""Picture formats: those that are read, by content, and endings of those that are not."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import BinaryIO

from PIL import Image, ImageFile

PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".avif", ".tif", ".tiff"),
    *(".heic", ".heif", ".hif", ".jxl"),
    *(".jfif", ".jpe", ".mpo", ".apng", ".avifs", ".jp2", ".j2k", ".jpx", ".jpf"),
    *(".tga", ".qoi", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Endings of picture files, in any letter case."""

OTHER_PICTURES = frozenset(
    (
        *(".psd", ".psb", ".xcf", ".kra", ".clip", ".svg", ".svgz", ".eps", ".ai", ".pdf"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw"),
        *(".exr", ".hdr", ".dds", ".ico", ".jxr", ".pcx", ".dib", ".sgi", ".xbm", ".xpm"),
    )
)
"""Endings of pictures that are not read: drawings with layers, vectors, camera data."""

NUM_START_BYTES = 18
"""Bytes from a file's start that tell its format."""

# By content, since endings lie; no format here runs another program (EPS would run Ghostscript).
_FORMATS = (
    *("PNG", "JPEG", "WEBP", "BMP", "GIF", "AVIF", "TIFF", "JPEG2000", "QOI", "PPM", "TGA"),
)

_UNMISTAKABLE = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "JPEG2000", "QOI")
"""Formats whose first bytes no text has."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A package that reads a format for Pillow.

    Attributes:
        accepts: Whether a file begins as one of that format.
        module: What is imported.
        reader: The name of its ``ImageFile`` in that module.
        package: What ``pip install`` takes.
    """

    accepts: Callable[[bytes], bool]
    module: str
    reader: str
    package: str


_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JXL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")

PLUGINS = {
    "HEIF": Plugin(
        lambda start: start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS,
        "pillow_heif",
        "HeifImageFile",
        '"sdlora[heic]"',
    ),
    "JPEG XL": Plugin(
        lambda start: start.startswith(_JXL_STARTS),
        "pillow_jxl.JpegXLImagePlugin",
        "JXLImageFile",
        '"sdlora[jxl]"',
    ),
}
"""Formats that a package of their own reads, imported for the first such file."""


class PictureError(ValueError):
    """A picture file that cannot be used; the message gives reason and remedy."""


def reader(stream: BinaryIO) -> ImageFile.ImageFile:
    """``Image.open`` for the formats that are read, without its warning of large pictures.

    A warning filter would change the whole process, including other threads.

    Args:
        stream: The file, from its beginning.

    Raises:
        PictureError: If the file is empty, of another format, or of one whose package is missing.
        Exception: Of nearly any kind for damaged files, from Pillow's readers.
    """
    start = stream.read(NUM_START_BYTES)
    if not start:
        raise PictureError("cannot be decoded (the file is empty); replace or remove it")
    stream.seek(0)
    name = _format(start, _FORMATS)
    if name is not None:
        return Image.OPEN[name][0](stream, "")
    for name, plugin in PLUGINS.items():
        if plugin.accepts(start):
            return _plugin_reader(name, plugin)(stream, "")
    known = ", ".join((*_FORMATS, *PLUGINS))
    raise PictureError(f"cannot be decoded (its content is none of {known}); replace or remove it")


def picture_format(start: bytes) -> str | None:
    """The format of a file that begins like a picture of a common kind, whatever its ending.

    Args:
        start: Its first ``NUM_START_BYTES`` bytes.
    """
    name = _format(start, _UNMISTAKABLE)
    return name or next((name for name, each in PLUGINS.items() if each.accepts(start)), None)


def _format(start: bytes, names: tuple[str, ...]) -> str | None:
    Image.init()
    for name in names:
        accepts = _is_tga if name == "TGA" else Image.OPEN[name][1]
        if accepts is not None and accepts(start) is True:
            return name
    return None


def _is_tga(start: bytes) -> bool:
    """Whether a file may be a Targa, which has no signature: kinds of colour map, image, depth."""
    if len(start) < NUM_START_BYTES:
        return False
    return start[1] in (0, 1) and start[2] in (1, 2, 3, 9, 10, 11) and start[16] in (8, 16, 24, 32)


def _plugin_reader(name: str, plugin: Plugin) -> Callable[[BinaryIO, str], ImageFile.ImageFile]:
    if find_spec(plugin.module.partition(".")[0]) is None:
        raise PictureError(
            f"is a {name} picture, which a package of its own reads; pip install {plugin.package}, "
            "or save it as PNG"
        )
    found: Callable[[BinaryIO, str], ImageFile.ImageFile] = getattr(
        import_module(plugin.module), plugin.reader
    )
    return found
