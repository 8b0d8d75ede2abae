"""A contact sheet shows every picture where it belongs, and says which it leaves out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdlora.data.pictures.cuts import fitted
from sdlora.data.pictures.picture import Picture
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sheet.contact_sheet import (
    TILE_PX,
    contact_pages,
    contact_sheet,
    write_contact_sheets,
)
from sdlora.data.sheet.data_sheet import Row
from sdlora.runtime.progress import Progress

QUIET = Progress(enabled=False)
STEP_PX = 270  # tile and gap
GAP_PX = 14


def rows(count: int, caption: str = "a caption") -> list[Row]:
    return [
        Row(
            Picture(f"{i}.png", (64, 64), "", str(i)),
            (64, 64),
            (64, 64),
            (0, 0, 64, 64),
            caption,
            1,
        )
        for i in range(count)
    ]


def numbered(number: int) -> Image.Image:
    """A tile whose colour tells its number."""
    return Image.new("RGB", (64, 64), (number % 256, number // 256, 77))


def numbers_on(page: Image.Image) -> list[int]:
    """The numbers of all tiles on a page, read off their colours, row by row."""
    pixels = np.asarray(page).astype(int)
    seen = []
    for line in pixels[:, GAP_PX + 100 :: STEP_PX]:
        found = [pixel[0] + 256 * pixel[1] for pixel in line if pixel[2] == 77]
        if found and found[0] not in seen:
            seen += found
    return seen


def test_tiles_stand_in_rows() -> None:
    colours = ["red", "lime", "blue", "yellow"]
    tiles = [Image.new("RGB", (100, 100), colour) for colour in colours]
    sheet = contact_sheet(tiles, ["name\n64x64\ncaption"] * 4, columns=3)
    assert sheet.mode == "RGB"
    assert sheet.width == GAP_PX + 3 * STEP_PX
    for place, tile in enumerate(tiles[:3]):
        shown = sheet.getpixel((GAP_PX + place * STEP_PX + TILE_PX // 2, GAP_PX + TILE_PX // 2))
        assert shown == tile.getpixel((0, 0))
    assert sheet.getpixel((GAP_PX + 100, sheet.height - 160)) == (255, 255, 0)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((64, 64), (256, 256)),
        ((512, 768), (171, 256)),
        ((768, 512), (256, 171)),
        ((150, 120), (150, 120)),
        ((1, 1), (256, 256)),
        ((1024, 128), (256, 32)),
    ],
)
def test_sizes_of_tiles(size: tuple[int, int], shown: tuple[int, int]) -> None:
    sheet = contact_sheet([Image.new("RGB", size, "red")], ["a\nb\nc"])
    inside = np.asarray(sheet)[GAP_PX:, GAP_PX:]
    framed = (inside == (208, 208, 208)).all(-1)
    assert framed[0].sum() == shown[0]
    assert framed[:, 0].sum() == shown[1]


def test_labels_lie_below_their_tile_and_inside_its_width() -> None:
    label = f"{'long name ' * 9}.png\n512x768, 12% cut, enlarged 1.24x, 2 times\n{'word ' * 4000}"
    tiles = [Image.new("RGB", (200, 100), "red"), Image.new("RGB", (200, 200), "red")]
    sheet = np.asarray(contact_sheet(tiles, [label, "b.png\n1x1\nc"]).convert("L"))
    dark = sheet < 128  # red is 76
    dark[GAP_PX : GAP_PX + 200, STEP_PX + GAP_PX :] = False  # the second tile
    assert dark[GAP_PX + 100 :, GAP_PX : GAP_PX + TILE_PX].any()
    assert not dark[:, GAP_PX + TILE_PX : GAP_PX + STEP_PX].any()
    assert not dark[-GAP_PX:].any()


class Drawn:
    """A source that draws picture ``number``."""

    def __init__(self, draw: Callable[[int], Image.Image]) -> None:
        self.image = draw


def shown_by(draw: Callable[[int], Image.Image]) -> PictureSet:
    """So many pictures as any test shows, each trained on whole."""
    whole = fitted(numbered(0).size, numbered(0).size)
    return PictureSet(Drawn(draw), [whole] * 1000, fingerprint="")


def test_a_missing_caption_is_shown_in_red() -> None:
    def has_red(caption: str) -> bool:
        page = contact_pages(
            rows(1, caption), shown_by(lambda _: Image.new("RGB", (64, 64))), QUIET
        )[0]
        return bool((np.asarray(page) == (0xB3, 0x26, 0x1E)).all(-1).any())

    assert has_red(" ")
    assert not has_red("a caption")


@pytest.mark.parametrize(
    "text", ["Äpfel, кот, 日本語, \u202eabc, \x00, 🙂, \ud800", "x" * 9000, "\n\n", "é\n"]
)
def test_any_caption_can_be_drawn(text: str) -> None:
    page = contact_pages(rows(1, text), shown_by(numbered), QUIET)[0]
    assert page.height < 450


def test_pages_hold_every_picture_once() -> None:
    pages = contact_pages(rows(130), shown_by(numbered), QUIET)
    assert [numbers_on(page) for page in pages] == [
        list(range(64)),
        list(range(64, 128)),
        [128, 129],
    ]
    assert QUIET.tasks() == []


def test_of_many_pictures_some_are_chosen_evenly() -> None:
    pages = contact_pages(rows(1000), shown_by(numbered), QUIET)
    shown = [number for page in pages for number in numbers_on(page)]
    assert len(pages) == 4
    assert len(set(shown)) == 256
    assert (shown[0], shown[-1]) == (0, 999)
    assert set(np.diff(shown).tolist()) == {3, 4}


def test_a_picture_that_cannot_be_decoded_keeps_its_place() -> None:
    def tile(number: int) -> Image.Image:
        if number == 1:
            raise PictureError("cannot be decoded; replace it")
        return numbered(number)

    page = contact_pages(rows(3), shown_by(tile), QUIET)[0]
    assert numbers_on(page) == [0, 2]
    assert page.getpixel((GAP_PX + STEP_PX + 100, 150)) == (208, 208, 208)


def test_pages_are_written_and_old_ones_go(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    written = write_contact_sheets(tmp_path, pages)
    names = ["contact_sheet.png", "contact_sheet_2.png", "contact_sheet_3.png"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert Image.open(written[1]).getpixel((0, 0)) == (0, 255, 0)
    write_contact_sheets(tmp_path, pages[2:])
    assert [path.name for path in tmp_path.iterdir()] == names[:1]
    assert Image.open(written[0]).getpixel((0, 0)) == (0, 0, 255)


def test_no_picture_makes_no_page(tmp_path: Path) -> None:
    assert contact_pages([], shown_by(numbered), QUIET) == []
    assert write_contact_sheets(tmp_path, []) == []
    with pytest.raises(ValueError, match="tiles: 0 with 0 labels"):
        contact_sheet([], [])
    with pytest.raises(ValueError, match="tiles: 1 with 2 labels"):
        contact_sheet([numbered(0)], ["a", "b"])


def test_a_check_shows_whole_pictures_and_darkens_what_the_cut_takes_away() -> None:
    """A 128 x 64 picture cut to its middle square: a quarter of the tile on each side is dark."""
    picture = Image.new("RGB", (128, 64), (250, 250, 100))
    cut = fitted(picture.size, (64, 64))
    cut_row = Row(
        Picture("a.png", picture.size, "", "0"), (64, 64), (128, 64), cut.crop, "a caption", 1
    )
    pictures = PictureSet(Drawn(lambda _: picture), [cut], fingerprint="")
    page = contact_pages([cut_row], pictures, QUIET, whole=True)[0]
    middle = GAP_PX + 34 + 64  # below the title
    seen = [page.getpixel((GAP_PX + left, middle)) for left in (30, 64, 128, 191, 220)]
    assert seen == [
        (100, 100, 40),
        (0xB3, 0x26, 0x1E),
        (250, 250, 100),
        (0xB3, 0x26, 0x1E),
        (100, 100, 40),
    ]
    plain = contact_pages([cut_row], pictures, QUIET)[0]
    assert plain.getpixel((GAP_PX + 30, middle)) == (250, 250, 100)
