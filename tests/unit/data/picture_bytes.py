"""Small picture files, by Pillow or byte by byte where Pillow cannot write them."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)

# How a 3x2 upright picture is stored for each EXIF orientation (TIFF 6.0, tag 274), by hand:
# the stored row 0 is the upright top, top, bottom, bottom, left, right, right, left side.
STORED = {
    1: ["abc", "def"],
    2: ["cba", "fed"],
    3: ["fed", "cba"],
    4: ["def", "abc"],
    5: ["ad", "be", "cf"],
    6: ["cf", "be", "ad"],
    7: ["fc", "eb", "da"],
    8: ["da", "eb", "fc"],
}
COLOURS = dict(zip("abcdef", [RED, GREEN, BLUE, WHITE, BLACK, (9, 99, 199)], strict=True))


def stored(orientation: int) -> Image.Image:
    rows = [[COLOURS[each] for each in row] for row in STORED[orientation]]
    return Image.fromarray(np.array(rows, dtype=np.uint8))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    size: tuple[int, int],
    form: tuple[int, int],
    rows: bytes,
    *,
    clear: bytes = b"",
    late: bytes = b"",
) -> bytes:
    """A PNG by hand (W3C PNG, section 11), for what Pillow cannot write.

    Args:
        size: Width and height.
        form: Bits a sample and colour type.
        rows: The samples, each row after a zero.
        clear: What is transparent.
        late: Chunks behind the pixels.
    """
    header = struct.pack(">IIBBBBB", *size, *form, 0, 0, 0)
    transparency = chunk(b"tRNS", clear) if clear else b""
    body = chunk(b"IHDR", header) + transparency + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + late + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def one(colour: object, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (1, 1), colour)


def words(*values: int) -> bytes:
    """Numbers as PNG stores those of 16 bits."""
    return struct.pack(f">{len(values)}H", *values)


def noise_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return saved(Image.fromarray(noise), "JPEG")
