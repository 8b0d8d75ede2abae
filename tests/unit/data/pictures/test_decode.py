"""Pictures of every sort come out upright, sRGB, and with the pixels that a viewer shows."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from sdlora.data.pictures.decode import (
    MAX_PIXELS,
    read_alpha,
    read_header,
    read_mask,
    read_picture,
    to_tensor,
    to_unit_range,
)
from sdlora.data.pictures.picture_formats import PictureError
from tests.unit.data import icc
from tests.unit.data.picture_bytes import (
    GREEN,
    RED,
    STORED,
    exif,
    noise_jpeg,
    one,
    png,
    saved,
    stored,
    words,
)
from tests.unit.data.picture_files import FAULTY, SOUND, PictureFile


@pytest.mark.parametrize("name", SOUND)
def test_a_picture_is_what_a_viewer_shows(tmp_path: Path, name: str) -> None:
    file: PictureFile = SOUND[name]
    path = tmp_path / name
    path.write_bytes(file.data)
    image = read_picture(path)
    assert image.mode == "RGB"
    assert image.size == file.size
    wanted = np.broadcast_to(np.asarray(file.pixels, dtype=float), (*file.size[::-1], 3))
    np.testing.assert_allclose(np.asarray(image), wanted, rtol=0, atol=file.atol)
    assert not image.info, "whoever reads the metadata again turns or converts it twice"
    header = read_header(path)
    assert header.size == file.size
    assert header.has_alpha == file.has_alpha
    assert header.is_animated == file.is_animated
    assert (read_alpha(path) is not None) == file.has_alpha
    assert read_mask(path).size == file.size


@pytest.mark.parametrize("name", FAULTY)
def test_what_is_no_whole_picture_is_refused_with_reason_and_remedy(
    tmp_path: Path, name: str
) -> None:
    data, message = FAULTY[name]
    (tmp_path / name).write_bytes(data)
    for read in (read_picture, read_mask):
        with pytest.raises(PictureError) as caught:
            read(tmp_path / name)
        assert message in str(caught.value)
        assert str(caught.value).endswith(
            ("; replace or remove it", "; reduce it", "; save it as PNG")
        )


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    for name in ("bomb.png", "bomb.webp"):
        with pytest.raises(PictureError, match=str(MAX_PIXELS)):
            read_header(BytesIO(FAULTY[name][0]))


def test_a_large_picture_is_no_bomb_and_nothing_warns() -> None:
    """Warnings are errors here; Pillow gives one from 89,478,485 pixels on."""
    wide = png((12_000, 10_000), (1, 0), b"".join([bytes(1501)] * 10_000))
    assert read_header(BytesIO(wide)).size == (12_000, 10_000)
    assert read_mask(BytesIO(wide)).getextrema() == (0, 0)


def test_a_header_is_read_without_decoding() -> None:
    """A cut picture has the header that the whole has."""
    assert read_header(BytesIO(noise_jpeg()[:2000])) == read_header(BytesIO(noise_jpeg()))


def test_what_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    for read in (read_header, read_picture, read_alpha, read_mask):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.png")


def test_the_background_is_chosen() -> None:
    half = saved(one((0, 0, 0, 51), "RGBA"))  # a fifth of black
    assert read_picture(BytesIO(half), (100, 200, 50)).getpixel((0, 0)) == (80, 160, 40)


def test_what_is_srgb_already_keeps_every_value() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    of_pillow = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (of_pillow, icc.srgb()):
        data = saved(Image.fromarray(colours), icc_profile=profile)
        np.testing.assert_array_equal(read_picture(BytesIO(data)), colours)


@pytest.mark.parametrize("orientation", STORED)
def test_alpha_and_masks_are_upright(orientation: int) -> None:
    """A corner that is told apart: the upright left upper one is red, 30 % luminance."""
    image = stored(orientation)
    alpha = image.convert("L")
    data = saved(Image.merge("RGBA", [*image.split(), alpha]), exif=exif(orientation))
    upright = np.asarray(stored(1), dtype=float)
    luminance = upright @ (0.299, 0.587, 0.114)  # ITU-R BT.601
    shown = luminance * luminance / 255  # a mask is black where it is transparent
    for found, wanted in (
        (read_alpha(BytesIO(data)), luminance),
        (read_mask(BytesIO(data)), shown),
    ):
        assert found is not None
        assert found.mode == "L"
        np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=1)  # rounding


def test_alpha_of_every_kind() -> None:
    assert read_alpha(BytesIO(saved(one(RED)))) is None
    palette = Image.new("P", (2, 1))
    palette.putpixel((1, 0), 1)
    for data, expected in (
        (saved(one((9, 9, 9, 77), "RGBA")), [[77]]),
        (saved(one((9, 77), "LA")), [[77]]),
        (saved(one((9, 9, 9, 77), "RGBA"), "WEBP", lossless=True), [[77]]),
        (saved(palette, transparency=b"\x4d\xff"), [[77, 255]]),
        (png((2, 1), (8, 2), b"\0" + bytes(RED + GREEN), clear=words(*GREEN)), [[255, 0]]),
        (png((2, 1), (16, 0), b"\0" + words(256, 257), clear=words(257)), [[255, 0]]),
    ):
        alpha = read_alpha(BytesIO(data))
        assert alpha is not None
        assert np.asarray(alpha).tolist() == expected


def test_masks_of_every_kind() -> None:
    for data, expected in (
        (saved(one(128, "L")), 128),
        (saved(one(1, "1")), 255),
        (saved(one(RED)), 76),  # 0.299 * 255
        (saved(one((128, 128, 128, 255), "RGBA")), 128),
        (saved(one((255, 255, 255, 0), "RGBA")), 0),
        (saved(one((255, 128), "LA")), 128),
        (png((1, 1), (16, 0), b"\0" + words(32_896)), 128),  # 128 * 257
        (
            saved(
                one(128, "L"),
                icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
            ),
            128,
        ),
    ):
        mask = read_mask(BytesIO(data))
        assert mask.mode == "L"
        assert mask.getpixel((0, 0)) == expected


def test_white_painted_on_nothing_is_a_mask_of_its_strokes() -> None:
    image = Image.new("RGBA", (3, 1), (255, 255, 255, 0))
    image.putpixel((1, 0), (255, 255, 255, 255))
    image.putpixel((2, 0), (255, 255, 255, 128))
    mask = read_mask(BytesIO(saved(image)))
    assert [mask.getpixel((x, 0)) for x in range(3)] == [0, 255, 128]


def test_pixels_span_minus_one_to_one() -> None:
    image = Image.new("RGB", (2, 1), (0, 255, 0))
    image.putpixel((1, 0), (51, 0, 255))
    pixels = to_tensor(image)
    assert pixels.shape == (3, 1, 2)
    expected = [[[-1.0, -0.6]], [[1.0, -1.0]], [[-1.0, 1.0]]]
    torch.testing.assert_close(to_unit_range(pixels), torch.tensor(expected))
