"""The declared size of JPEG XL files: by hand, and as the codec writes it."""

from io import BytesIO

import pytest
from PIL import Image

from sdlora.data.pictures.decode import read_header
from sdlora.data.pictures.jxl_size import jxl_size
from sdlora.data.pictures.picture_formats import PictureError
from tests.unit.data.picture_bytes import saved

CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"


def packed(*fields: tuple[int, int]) -> bytes:
    """Fields of (value, bits), the lowest bit first."""
    number = place = 0
    for value, bits in fields:
        number |= value << place
        place += bits
    return number.to_bytes(12, "little")


# in eights: no; height 20000 = 1 + u(18), selector 2; ratio 0; width 30000 in the same way
LARGE = b"\xff\x0a" + packed((0, 1), (2, 2), (19_999, 18), (0, 3), (2, 2), (29_999, 18))


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (LARGE, (30_000, 20_000)),
        # in eights: height 8 * (3 + 1), ratio 7 is two to one
        (b"\xff\x0a" + packed((1, 1), (3, 5), (7, 3)), (64, 32)),
        # height 1 + 99 by nine bits, ratio 4 is three to two
        (b"\xff\x0a" + packed((0, 1), (0, 2), (99, 9), (4, 3)), (150, 100)),
        (CONTAINER + b"\0\0\0\x14ftypjxl \0\0\0\0jxl " + b"\0\0\0\0jxlc" + LARGE, (30_000, 20_000)),
        (CONTAINER + b"\0\0\0\0jxlp\0\0\0\0" + LARGE, (30_000, 20_000)),
        (CONTAINER + b"\0\0\0\0free", None),
        (CONTAINER, None),
        (b"\xff\x0a", None),
        (b"\xff\xd8\xff\xe0 a JPEG", None),
        (b"", None),
    ],
)
def test_sizes_by_hand(data: bytes, size: tuple[int, int] | None) -> None:
    stream = BytesIO(data)
    assert jxl_size(stream) == size
    assert stream.tell() == 0


def test_a_bomb_is_refused_before_its_package_is_asked() -> None:
    with pytest.raises(PictureError, match=r"is 30000x20000, more than \d+ pixels"):
        read_header(BytesIO(LARGE))


@pytest.mark.parametrize("size", [(40, 30), (256, 256), (1, 700), (1920, 1080), (640, 480), (9, 8)])
def test_sizes_of_the_codec(size: tuple[int, int]) -> None:
    pytest.importorskip("pillow_jxl")
    data = saved(Image.new("RGB", size), "JXL", lossless=True)
    assert jxl_size(BytesIO(data)) == size
