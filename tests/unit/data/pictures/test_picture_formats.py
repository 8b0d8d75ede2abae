"""Formats are told by content; those of other packages are read where these are installed."""

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from sdlora.data.pictures import picture_formats
from sdlora.data.pictures.decode import read_header, read_picture
from sdlora.data.pictures.picture_formats import PLUGINS, PictureError, picture_format
from tests.unit.data.picture_bytes import saved
from tests.unit.data.picture_files import SOUND

HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"
JXL = b"\xff\x0a\x18\xc0\x01\0\x13\x88\x02\0\xa8\0\xb5\x9f \0\0\0"


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        (HEIC, r'is a HEIF picture, .*; pip install "sdlora\[heic\]", or save it as PNG'),
        (JXL, r'is a JPEG XL picture, .*; pip install "sdlora\[jxl\]", or save it as PNG'),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    data: bytes, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_formats, "find_spec", lambda name: None)
    with pytest.raises(PictureError, match=asked):
        read_header(BytesIO(data))


@pytest.mark.parametrize("name", PLUGINS)
def test_an_installed_package_reads_its_format(name: str) -> None:
    plugin = PLUGINS[name]
    module: Any = pytest.importorskip(plugin.module.partition(".")[0])
    if name == "HEIF":
        module.register_heif_opener()
        data = saved(Image.new("RGB", (40, 30), "red"), "HEIF")
    else:
        data = saved(Image.new("RGB", (40, 30), "red"), "JXL", lossless=True)
    assert picture_format(data[:18]) == name
    assert read_header(BytesIO(data)).size == (40, 30)
    red, green, blue = read_picture(BytesIO(data)).getpixel((20, 20))
    assert red > 245
    assert max(green, blue) < 10
    with pytest.raises(PictureError, match="cannot be decoded"):
        read_picture(BytesIO(data[: len(data) // 2]))


def test_a_picture_is_known_by_its_first_bytes_and_a_text_never() -> None:
    assert picture_format(HEIC[:18]) == "HEIF"
    assert picture_format(JXL[:18]) == "JPEG XL"
    for name, kind in (("plain.png", "PNG"), ("other.tiff", "TIFF"), ("gif.webp", "GIF")):
        assert picture_format(SOUND[name].data[:18]) == kind
    for text in (
        b"BMW, a car by the sea",
        b"P5 is a script of mine",
        b"Python notes",
        b"",
        b"\0" * 18,
    ):
        assert picture_format(text) is None
