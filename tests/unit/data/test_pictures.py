"""Pictures of every kind come out upright, RGB, and with the pixels that a viewer shows."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdlora.data.pictures import (
    PictureError,
    fit_square,
    read_picture,
    to_rgb,
    to_tensor,
    to_unit_range,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)

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
COLOURS = dict(zip("abcdef", [RED, GREEN, BLUE, WHITE, (0, 0, 0), (9, 99, 199)], strict=True))


def picture(rows: list[str]) -> Image.Image:
    return Image.fromarray(np.array([[COLOURS[c] for c in row] for row in rows], dtype=np.uint8))


def png(width: int, height: int, bits: int, kind: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand (W3C PNG, section 11), for what Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    transparency = chunk(b"tRNS", extra) if extra else b""
    body = chunk(b"IHDR", header) + transparency + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "a.png"
    picture(STORED[orientation]).save(path, exif=exif)
    np.testing.assert_array_equal(read_picture(path), picture(STORED[1]))


def test_jpeg_orientation_is_undone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    stored = Image.new("RGB", (40, 20), RED)
    stored.paste(BLUE, (20, 0, 40, 20))  # the right half is stored; upright it is the lower half
    stored.save(tmp_path / "a.JPG", exif=exif, format="JPEG", quality=95)
    upright = read_picture(tmp_path / "a.JPG")
    assert upright.size == (20, 40)
    np.testing.assert_allclose(upright.getpixel((10, 5)), RED, atol=3)  # JPEG rounding
    np.testing.assert_allclose(upright.getpixel((10, 35)), BLUE, atol=3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_transparent_is_white_whatever_hides_below(mode: str) -> None:
    clear, half = Image.new("RGBA", (2, 2), (0, 0, 0, 0)), Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    if mode == "PA":
        clear = Image.new("PA", (2, 2), (0, 0))
        half = Image.new("PA", (2, 2), (0, 128))
        for image in (clear, half):
            image.putpalette([0, 0, 0])
    else:
        between = {"La": "LA"}.get(mode, "RGBA")
        clear, half = (image.convert(between).convert(mode) for image in (clear, half))
    assert to_rgb(clear).getpixel((0, 0)) == WHITE
    assert to_rgb(half).getpixel((0, 0)) == (127, 127, 127)  # 255 * (1 - 128 / 255)


def test_palette_and_its_transparent_entry(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=1)
    np.testing.assert_array_equal(read_picture(tmp_path / "plain.png"), [[RED, GREEN]])
    np.testing.assert_array_equal(read_picture(tmp_path / "clear.png"), [[RED, WHITE]])


def test_transparent_colour_of_rgb_and_grey_png(tmp_path: Path) -> None:
    (tmp_path / "rgb.png").write_bytes(
        png(2, 1, 8, 2, b"\0" + bytes(RED) + bytes(GREEN), struct.pack(">HHH", *GREEN))
    )
    (tmp_path / "grey.png").write_bytes(png(2, 1, 8, 0, b"\0\x10\x20", struct.pack(">H", 0x20)))
    np.testing.assert_array_equal(read_picture(tmp_path / "rgb.png"), [[RED, WHITE]])
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png"), [[(16, 16, 16), WHITE]])


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = [0, 257, 32_768, 65_535]
    rows = b"\0" + struct.pack(">4H", *values)
    (tmp_path / "a.png").write_bytes(png(4, 1, 16, 0, rows))
    (tmp_path / "clear.png").write_bytes(png(4, 1, 16, 0, rows, struct.pack(">H", 257)))
    # v / 257: 0, 1, 127.5 (32768 / 257 = 127.502), 255
    assert [p[0] for p in _row(tmp_path / "a.png")] == [0, 1, 128, 255]
    assert [p[0] for p in _row(tmp_path / "clear.png")] == [0, 255, 128, 255]
    wide = Image.fromarray(np.array([values], dtype=np.int32))
    assert wide.mode == "I"
    assert np.asarray(to_rgb(wide))[0, :, 1].tolist() == [0, 1, 128, 255]


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    rows = b"\0" + struct.pack(">3H", 65_535, 32_768, 0)
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, 2, rows))
    np.testing.assert_allclose(_row(tmp_path / "a.png"), [(255, 127.5, 0)], atol=0.5)


def test_cmyk_grey_and_bilevel(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    np.testing.assert_allclose(_row(tmp_path / "cmyk.jpg")[0], RED, atol=3)  # JPEG rounding
    Image.new("L", (1, 1), 77).save(tmp_path / "grey.bmp")
    assert _row(tmp_path / "grey.bmp") == [(77, 77, 77)]
    Image.new("1", (1, 1), 1).save(tmp_path / "bilevel.png")
    assert _row(tmp_path / "bilevel.png") == [WHITE]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    path = tmp_path / "a.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert _row(path)[0] == RED


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = tmp_path / "whole.jpg"
    Image.fromarray(noise).save(whole)
    cases = {
        "cut.jpg": whole.read_bytes()[:2000],
        "text.jpg": b"a caption",
        "none.png": b"",
        "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "page.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "flat.png": png(0, 4, 8, 0, b""),
        "bomb.png": png(20_000, 20_000, 1, 0, b""),
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        reason = "178956970 pixels" if name == "bomb.png" else "cannot be decoded"
        with pytest.raises(PictureError, match=reason):
            read_picture(tmp_path / name)


def test_too_small_is_refused_with_size_and_limit(tmp_path: Path) -> None:
    Image.new("RGB", (1, 4000)).save(tmp_path / "a.png")
    with pytest.raises(PictureError, match="1x4000 pixels, its shorter side below 32"):
        read_picture(tmp_path / "a.png", min_side_px=32)


def test_square_is_cut_where_the_anchor_says() -> None:
    image = Image.new("RGB", (30, 10), GREEN)
    image.paste(RED, (0, 0, 10, 10))
    image.paste(BLUE, (20, 0, 30, 10))
    for across, colour in ((0.0, RED), (0.5, GREEN), (1.0, BLUE)):
        square = fit_square(image, 10, (across, 0.5))
        assert np.asarray(square).reshape(-1, 3).tolist() == [list(colour)] * 100
    assert fit_square(image, 4, (0.5, 0.5)).size == (4, 4)
    assert fit_square(image, 40, (0.5, 0.5)).size == (40, 40)


def test_pixels_span_minus_one_to_one() -> None:
    image = Image.new("RGB", (2, 1), (0, 255, 0))
    image.putpixel((1, 0), (51, 0, 255))
    pixels = to_tensor(image)
    assert pixels.shape == (3, 1, 2)
    expected = [[[-1.0, -0.6]], [[1.0, -1.0]], [[-1.0, 1.0]]]
    torch.testing.assert_close(to_unit_range(pixels), torch.tensor(expected))


def _row(path: Path) -> list[tuple[int, int, int]]:
    return [tuple(pixel) for pixel in np.asarray(read_picture(path))[0].tolist()]
