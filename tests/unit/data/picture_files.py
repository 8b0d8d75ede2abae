"""Picture files of every sort, each with the pixels that a viewer shows, known without decoding."""

from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, features

from tests.unit.data import icc
from tests.unit.data.picture_bytes import (
    BLACK,
    BLUE,
    GREEN,
    RED,
    STORED,
    WHITE,
    chunk,
    exif,
    noise_jpeg,
    one,
    png,
    saved,
    stored,
    words,
)

EXACT, ROUNDED = 0, 1
JPEG = 3  # its own rounding, of one flat colour


class PictureFile(NamedTuple):
    """A file's bytes and what they show.

    Attributes:
        data: The bytes.
        pixels: ``[H, W, 3]``, or what broadcasts to it, over white.
        size: Width and height, upright.
        atol: How far a pixel may be off, of 255.
        has_alpha: Whether it has an alpha channel or a transparent colour.
        is_animated: Whether it has several frames.
    """

    data: bytes
    pixels: Any
    size: tuple[int, int]
    atol: float = EXACT
    has_alpha: bool = False
    is_animated: bool = False


def plain() -> dict[str, PictureFile]:
    two = Image.fromarray(np.array([[RED, GREEN]], dtype=np.uint8))
    avif = {}
    if features.check("avif"):
        data = saved(Image.new("RGB", (16, 16), (200, 100, 50)), "AVIF", quality=100)
        avif["avif.jpg"] = PictureFile(data, (200, 100, 50), (16, 16), JPEG)
    return avif | {
        "plain.png": PictureFile(saved(two), [[RED, GREEN]], (2, 1)),
        "png.jpg": PictureFile(saved(two), [[RED, GREEN]], (2, 1)),
        "jpeg.png": PictureFile(
            saved(Image.new("RGB", (16, 16), RED), "JPEG"), RED, (16, 16), JPEG
        ),
        "gif.webp": PictureFile(saved(one(RED), "GIF"), RED, (1, 1)),
        "one_pixel.bmp": PictureFile(saved(one((1, 2, 3)), "BMP"), (1, 2, 3), (1, 1)),
        "strip.png": PictureFile(saved(Image.new("RGB", (10_000, 20), BLUE)), BLUE, (10_000, 20)),
        "grey.bmp": PictureFile(saved(one(77, "L"), "BMP"), 77, (1, 1)),
        "one_bit.png": PictureFile(saved(one(1, "1")), WHITE, (1, 1)),
    }


def of_other_formats() -> dict[str, PictureFile]:
    two = Image.fromarray(np.array([[RED, GREEN]], dtype=np.uint8))
    files = {
        f"other.{kind.casefold()}": PictureFile(saved(two, kind), [[RED, GREEN]], (2, 1))
        for kind in ("TIFF", "QOI", "PPM", "TGA")
    }
    flat = Image.new("RGB", (16, 16), RED)
    files["other.jp2"] = PictureFile(saved(flat, "JPEG2000"), RED, (16, 16))
    frames = saved(one(RED), "TIFF", save_all=True, append_images=[one(BLUE)])
    files["pages.tif"] = PictureFile(frames, RED, (1, 1), is_animated=True)
    sixteen = Image.fromarray(np.array([[0, 257, 32_768, 65_535]], dtype=np.uint16))
    eight = [(v, v, v) for v in (0, 1, 128, 255)]
    for kind in ("TIFF", "PPM"):
        files[f"16_bits.{kind}"] = PictureFile(saved(sixteen, kind), [eight], (4, 1))
    for orientation in STORED:
        data = saved(stored(orientation), "TIFF", exif=exif(orientation))
        shown = PictureFile(data, np.asarray(stored(1)), (3, 2))
        files[f"exif_{orientation}.tif"] = shown
    return files


def transparent() -> dict[str, PictureFile]:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putpixel((1, 0), 1)
    half_rgba, half_grey = one((0, 0, 0, 128), "RGBA"), one((0, 128), "LA")
    half_black = 127  # 255 * (1 - 128 / 255)
    half_red = (255, half_black, half_black)
    data = {
        "clear.png": (saved(one((0, 0, 0, 0), "RGBA")), WHITE),
        "opaque.png": (saved(one((9, 8, 7, 255), "RGBA")), (9, 8, 7)),
        "half.png": (saved(half_rgba), half_black),
        "half.webp": (saved(half_rgba, "WEBP", lossless=True), half_black),
        "half_grey.png": (saved(half_grey), half_black),
        "clear.gif": (saved(Image.new("P", (1, 1)), "GIF", transparency=0), WHITE),
        "palette_clear.png": (saved(palette, transparency=1), [[RED, WHITE]]),
        "palette_half.png": (saved(palette, transparency=b"\x80\xff"), [[half_red, GREEN]]),
        "clear_green.png": (
            png((2, 1), (8, 2), b"\0" + bytes(RED + GREEN), clear=words(*GREEN)),
            [[RED, WHITE]],
        ),
        "clear_grey.png": (
            png((2, 1), (8, 0), b"\0\x10\x20", clear=words(0x20)),
            [[(16, 16, 16), WHITE]],
        ),
        "clear_black_1_bit.png": (png((2, 1), (1, 0), b"\0\x00", clear=words(0)), WHITE),
        # two bits: 0, 1, 2, 3 are 0, 85, 170, 255; four bits: 3 and 7 are 51 and 119
        "clear_2_bits.png": (
            png((4, 1), (2, 0), b"\0\x1b", clear=words(2)),
            [[BLACK, (85,) * 3, WHITE, WHITE]],
        ),
        "clear_4_bits.png": (png((2, 1), (4, 0), b"\0\x37", clear=words(3)), [[WHITE, (119,) * 3]]),
    }
    with_alpha = {
        name: PictureFile(each, pixels, Image.open(BytesIO(each)).size, has_alpha=True)
        for name, (each, pixels) in data.items()
    }
    return with_alpha | {"palette.png": PictureFile(saved(palette), [[RED, GREEN]], (2, 1))}


def sixteen_bits() -> dict[str, PictureFile]:
    grey = b"\0" + words(0, 257, 32_768, 65_535)
    eight = [(v, v, v) for v in (0, 1, 128, 255)]  # v / 257: 0, 1, 127.502, 255
    colour = b"\0" + words(65_535, 32_768, 0)
    two_colours = b"\0" + words(0x0102, 0x0304, 0x0506, 65_535, 0, 0)
    clear_colour = png((2, 1), (16, 2), two_colours, clear=words(0x0102, 0x0304, 0x0506))
    return {
        "16_bits.png": PictureFile(png((4, 1), (16, 0), grey), [eight], (4, 1)),
        "16_bits_clear.png": PictureFile(
            png((4, 1), (16, 0), grey, clear=words(257)),
            [[BLACK, WHITE, *eight[2:]]],
            (4, 1),
            has_alpha=True,
        ),
        "16_bits_colour.png": PictureFile(
            png((1, 1), (16, 2), colour), (255, 127.5, 0), (1, 1), ROUNDED
        ),
        "16_bits_colour_clear.png": PictureFile(
            clear_colour, [[WHITE, RED]], (2, 1), has_alpha=True
        ),
        "16_bits_grey_alpha.png": PictureFile(
            png((1, 1), (16, 4), b"\0" + words(0, 32_768)), 127.5, (1, 1), ROUNDED, has_alpha=True
        ),
    }


def cmyk() -> dict[str, PictureFile]:
    def jpeg(inks: tuple[int, int, int, int], **options: object) -> bytes:
        return saved(Image.new("CMYK", (16, 16), inks), "JPEG", quality=100, **options)

    cyan, as_cyan = (255, 0, 0, 0), (0, 255, 255)
    lab = (60, -20, -20)
    data = {
        # (1 - ink) * (1 - black), of 255: 255 * 0.8, 255 * 0.6 * 0.8, 255 * 0.2 * 0.8
        "cmyk.jpg": (jpeg((0, 102, 204, 51)), (204, 122.4, 40.8)),
        "ycck.jpg": (_ycck_red(), RED),
        "cmyk_profile.jpg": (jpeg(cyan, icc_profile=icc.cmyk(lab)), icc.from_lab(lab)),
        "cmyk_broken_profile.jpg": (jpeg(cyan, icc_profile=b"x" * 200), as_cyan),
        "cmyk_cut_profile.jpg": (jpeg(cyan, icc_profile=icc.cmyk(lab)[:300]), as_cyan),
        "cmyk_rgb_profile.jpg": (jpeg(cyan, icc_profile=icc.adobe_rgb()), as_cyan),
    }
    return {
        name: PictureFile(each, pixels, (16, 16), JPEG) for name, (each, pixels) in data.items()
    }


def _ycck_red() -> bytes:
    """A JPEG as Photoshop writes it: no cyan, full magenta and yellow; YCCK, stored inverted.

    A decoder turns YCC into RGB (JFIF 1.02) and that into CMY = 255 - RGB; as it is stored
    inverted, RGB are the inks: (0, 255, 255), which is Y 179, Cb 171, Cr 0. Pillow writes CMYK
    inverted and says "no transform", which is changed here to "YCCK".
    """
    planes = Image.new("CMYK", (16, 16), (255 - 179, 255 - 171, 255 - 0, 0))
    data = saved(planes, "JPEG", quality=100)
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    return data[:transform] + b"\x02" + data[transform + 1 :]


def profiles() -> dict[str, PictureFile]:
    adobe, color = icc.adobe_rgb(), (150, 160, 120)
    converted = icc.from_adobe_rgb(color)
    half = one((*color, 128), "RGBA")
    p3 = saved(one((234, 51, 35)), "WEBP", lossless=True, icc_profile=icc.display_p3())
    sixteen = Image.fromarray(np.array([[128 * 257]], dtype=np.uint16))
    data = {
        "adobe_rgb.png": (saved(one(color), icc_profile=adobe), converted),
        "adobe_rgb_palette.png": (saved(one(color).quantize(2), icc_profile=adobe), converted),
        # sRGB's red, as CSS Color 4 gives it: color(display-p3 0.9175 0.2003 0.1386)
        "display_p3.webp": (p3, RED),
        "grey_adobe_rgb.png": (saved(one(128, "L"), icc_profile=adobe), 128),
        "linear_grey.png": (
            saved(one(128, "L"), icc_profile=icc.linear_grey()),
            icc.from_linear(128),
        ),
        "linear_grey_16_bits.png": (
            saved(sixteen, icc_profile=icc.linear_grey()),
            icc.from_linear(128),
        ),
        "linear_grey_alpha.png": (
            saved(one((128, 255), "LA"), icc_profile=icc.linear_grey()),
            icc.from_linear(128),
        ),
        "adobe_rgb_half.png": (saved(half, icc_profile=adobe), converted * 128 / 255 + 127),
    }
    with_alpha = ("linear_grey_alpha.png", "adobe_rgb_half.png")
    return {
        name: PictureFile(each, pixels, (1, 1), ROUNDED, has_alpha=name in with_alpha)
        for name, (each, pixels) in data.items()
    }


def animated() -> dict[str, PictureFile]:
    def frames(*colours: tuple[int, int, int], kind: str, **options: object) -> bytes:
        first, *rest = [Image.new("RGB", (8, 8), colour) for colour in colours]
        return saved(first, kind, save_all=True, append_images=rest, **options)

    webp = frames(RED, BLUE, kind="WEBP", lossless=True)
    return {
        "animated.webp": PictureFile(webp, RED, (8, 8), is_animated=True),
        "animated.gif": PictureFile(frames(RED, BLUE, kind="GIF"), RED, (8, 8), is_animated=True),
        "animated.png": PictureFile(frames(RED, BLUE, kind="PNG"), RED, (8, 8), is_animated=True),
        "two_views.jpg": PictureFile(frames(BLUE, RED, kind="MPO"), BLUE, (8, 8), JPEG),
    }


def turned() -> dict[str, PictureFile]:
    """The same picture as it is stored for each EXIF orientation, told before or behind it."""
    upright = np.asarray(stored(1))
    files = {}
    for orientation in STORED:
        image, tags = stored(orientation), exif(orientation)
        early = saved(image, exif=tags)
        rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(image))
        behind = chunk(b"tEXt", b"Comment\0x") + chunk(
            b"eXIf", tags.tobytes().removeprefix(b"Exif\0\0")
        )
        late = png(image.size, (8, 2), rows, late=behind)
        webp = saved(image, "WEBP", lossless=True, exif=tags)
        files[f"exif_{orientation}.png"] = PictureFile(early, upright, (3, 2))
        files[f"exif_{orientation}_late.png"] = PictureFile(late, upright, (3, 2))
        files[f"exif_{orientation}.webp"] = PictureFile(webp, upright, (3, 2))
    # upright, the lower half of the JPEG is blue: stored, its right half
    image = Image.new("RGB", (32, 16), RED)
    image.paste(BLUE, (16, 0, 32, 16))
    data = saved(image, "JPEG", exif=exif(6), quality=95, subsampling=0)
    halves = np.array([RED] * 16 + [BLUE] * 16)[:, None]
    xmp = chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>')
    by_xmp = png((1, 2), (8, 2), b"\0" + bytes(RED) + b"\0" + bytes(BLUE), late=xmp)
    return files | {
        "exif_6.jpg": PictureFile(data, halves, (16, 32), JPEG),
        "xmp_late.png": PictureFile(by_xmp, [[BLUE], [RED]], (1, 2)),
        "exif_broken.png": PictureFile(saved(one(RED), exif=b"Exif\0\0no such thing"), RED, (1, 1)),
        "exif_9.png": PictureFile(saved(Image.new("RGB", (2, 1), RED), exif=exif(9)), RED, (2, 1)),
    }


SOUND = (
    of_other_formats()
    | plain()
    | transparent()
    | sixteen_bits()
    | cmyk()
    | profiles()
    | animated()
    | turned()
)
"""By name; the ending is not always that of the content."""

FAULTY = {
    "empty.png": (b"", "cannot be decoded (the file is empty); replace or remove it"),
    "text.jpg": (b"a caption", "cannot be decoded (its content is none of PNG, JPEG, "),
    "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "its content is none of"),
    "page.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "its content is none of"),
    "cut.jpg": (noise_jpeg()[:2000], "cannot be decoded (image file is truncated"),
    "cut_in_header.jpg": (noise_jpeg()[:30], "cannot be decoded ("),
    "cut.png": (saved(Image.new("RGB", (64, 64), RED))[:60], "cannot be decoded ("),
    "cut.webp": (saved(Image.new("RGB", (64, 64), RED), "WEBP")[:30], "cannot be decoded ("),
    "damaged.png": (png((4, 4), (8, 2), b"\0too short"), "cannot be decoded ("),
    "numbers.tif": (saved(one(0.5, "F"), "TIFF"), "holds floating-point numbers, whose white is"),
    "deep.tif": (saved(one(70_000, "I"), "TIFF"), "holds 32 bits a pixel, whose white is unknown"),
    "flat.png": (png((0, 4), (8, 0), b""), "cannot be decoded ("),
    "bomb.png": (
        png((20_000, 20_000), (1, 0), b""),
        "is 20000x20000, more than 178956970 pixels, a decompression bomb or a scan; reduce it",
    ),
    # VP8L header (WebP lossless specification, section 3): 16384 x 16384
    "bomb.webp": (
        b"RIFF\x12\0\0\0WEBPVP8L\x05\0\0\0\x2f" + (0x0FFFFFFF).to_bytes(4, "little") + b"\0",
        "more than 178956970 pixels",
    ),
}
"""By name: the bytes, and what the message says."""
