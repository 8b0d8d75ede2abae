"""The contact sheet: the pictures as training cuts them, each with its caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sdlora.data.pictures.cuts import Geometry, cut_out
from sdlora.data.pictures.picture import quoted
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sheet.data_sheet import Row
from sdlora.data.sources.picture_source import DataError
from sdlora.runtime.files import atomic_path
from sdlora.runtime.progress import Progress

TILES_A_PAGE = 64
MAX_PAGES = 4

TILE_PX = 256
"""Longest side of a tile in pixels."""

_GAP_PX = 14
_TEXT_GAP_PX = 5
_FONT_PX = 12
_LINE_PX = 15
_WIDE_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
_TITLE_FONT_PX = 16
_TITLE_PX = 34
_MAX_CAPTION_LINES = 5
_MAX_LINE_CHARACTERS = 120  # more than a line holds of the narrowest letters
_INK, _GREY, _EMPTY, _FRAME = "#202020", "#767676", "#b3261e", "#d0d0d0"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    tiles: Sequence[Image.Image], labels: Sequence[str], columns: int = 8, title: str = ""
) -> Image.Image:
    """Lay tiles out in rows, each over its label.

    Tiles larger than 256 pixels are reduced, those up to half of it enlarged by a whole factor,
    pixel by pixel.

    Args:
        tiles: At least one.
        labels: One a tile: its name in the first line, facts in the second, the caption in the
            others. All are wrapped to the tile's width, and cut after one, two and five lines.
            Letters that no installed font has appear as boxes.
        columns: Tiles in a row, >= 1.
        title: Above all.

    Returns:
        Mode ``RGB``.
    """
    if not tiles or len(tiles) != len(labels):
        raise ValueError(f"tiles: {len(tiles)} with {len(labels)} labels; give one label each.")
    shown = [_fitted(tile) for tile in tiles]
    font = _font("".join(labels))
    texts = [_label_lines(label, font) for label in labels]
    starts = range(0, len(shown), columns)
    heights = [
        max(tile.height for tile in shown[start : start + columns])
        + _TEXT_GAP_PX
        + max(len(text) for text in texts[start : start + columns]) * _LINE_PX
        for start in starts
    ]
    top = _GAP_PX + (_TITLE_PX if title else 0)
    across = min(columns, len(shown))
    size = (
        _GAP_PX + across * (TILE_PX + _GAP_PX),
        top + sum(height + _GAP_PX for height in heights),
    )
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((_GAP_PX, _GAP_PX), title, _INK, ImageFont.load_default(_TITLE_FONT_PX))
    for start, height in zip(starts, heights, strict=True):
        for place in range(start, min(start + columns, len(shown))):
            left = _GAP_PX + (place - start) * (TILE_PX + _GAP_PX)
            page.paste(shown[place], (left, top))
            _draw_label(draw, (left, top), shown[place].size, texts[place], font)
        top += height + _GAP_PX
    return page


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture of a contact sheet.

    Attributes:
        number: Its number in the set.
        image: As training cuts it, or whole with what the cut takes away darkened.
        label: Name, facts and caption, in lines.
    """

    number: int
    image: Image.Image
    label: str


def contact_tiles(
    rows: Sequence[Row], pictures: PictureSet, progress: Progress, *, whole: bool = False
) -> list[Tile]:
    """The pictures of a set, at most 64 a page on four pages.

    Pictures of a larger set are chosen evenly. A picture that cannot be decoded is a grey tile with
    the reason.

    Args:
        rows: Rows of the data sheet.
        pictures: The pictures, which are cut and resized to their buckets.
        progress: Shows a bar.
        whole: Show whole pictures, with what the cut takes away darkened.
    """
    tiles = []
    for number in progress.track(_evenly(len(rows), TILES_A_PAGE * MAX_PAGES), "contact sheet"):
        try:
            image, geometry = pictures.source.image(number), pictures.geometry[number]
            is_marked = whole and rows[number].cut > 0
            tile = _marked(image, geometry) if is_marked else _fitted(cut_out(image, geometry))
            tiles.append(Tile(number, tile, _label(rows[number])))
        except (PictureError, DataError, OSError) as error:
            grey = Image.new("RGB", (TILE_PX, TILE_PX), _FRAME)
            label = f"{quoted(rows[number].picture.name)}\ncannot be shown\n{error}"
            tiles.append(Tile(number, grey, label))
    return tiles


def contact_pages(
    rows: Sequence[Row], pictures: PictureSet, progress: Progress, *, whole: bool = False
) -> list[Image.Image]:
    """The contact sheet of a set; arguments as for :func:`contact_tiles`."""
    return pages_of(contact_tiles(rows, pictures, progress, whole=whole), len(rows))


def pages_of(tiles: Sequence[Tile], total: int) -> list[Image.Image]:
    """The contact sheets of these tiles, which say whether there are more.

    Args:
        tiles: From :func:`contact_tiles`.
        total: Number of pictures of the set.
    """
    starts = range(0, len(tiles), TILES_A_PAGE)
    pages = []
    for page, start in enumerate(starts, start=1):
        own = tiles[start : start + TILES_A_PAGE]
        title = f"{total:,} picture{'s' * (total != 1)}"
        if len(tiles) < total:
            title = f"{len(tiles)} of {title}, evenly chosen"
        if len(starts) > 1:
            title += f" (page {page} of {len(starts)})"
        images, labels = [tile.image for tile in own], [tile.label for tile in own]
        pages.append(contact_sheet(images, labels, title=title))
    return pages


def write_contact_sheets(folder: Path, pages: Sequence[Image.Image]) -> list[Path]:
    """Write ``contact_sheet.png``, ``contact_sheet_2.png``, ...; remove further old pages."""
    paths = [_page_path(folder, page) for page in range(1, MAX_PAGES + 1)]
    for path, image in zip(paths, pages, strict=False):
        with atomic_path(path) as temporary:
            image.save(temporary)
    for path in paths[len(pages) :]:
        path.unlink(missing_ok=True)
    return paths[: len(pages)]


def _page_path(folder: Path, page: int) -> Path:
    return folder / ("contact_sheet.png" if page == 1 else f"contact_sheet_{page}.png")


def _evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of ``range(count)``, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _label(row: Row) -> str:
    picture = row.picture
    facts = [f"{row.bucket[0]}x{row.bucket[1]}"]
    facts += [f"{row.cut:.0%} cut"] * (row.cut >= 0.005)
    facts += [f"enlarged {row.enlarged:.2f}x"] * (row.enlarged > 1)
    facts += [f"{picture.repeats} times"] * (picture.repeats > 1)
    facts += ["mask"] * picture.has_mask
    return f"{quoted(picture.name)}\n{', '.join(facts)}\n{row.caption}"


def _fitted(tile: Image.Image) -> Image.Image:
    longest = max(tile.size)
    if longest > TILE_PX:
        size = tuple(max(1, round(side * TILE_PX / longest)) for side in tile.size)
        return tile.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)
    factor = TILE_PX // longest
    size = (tile.width * factor, tile.height * factor)
    return tile.convert("RGB").resize(size, Image.Resampling.NEAREST)


def _marked(image: Image.Image, geometry: Geometry) -> Image.Image:
    """The whole picture as a tile, dark and framed where the cut takes it away."""
    tile = _fitted(image)
    across, down = tile.width / image.width, tile.height / image.height
    left, top, right, bottom = geometry.crop
    kept = (round(left * across), round(top * down), round(right * across), round(bottom * down))
    marked = tile.point(lambda value: value * 2 // 5)
    marked.paste(tile.crop(kept), kept[:2])
    ImageDraw.Draw(marked).rectangle((*kept[:2], kept[2] - 1, kept[3] - 1), outline=_EMPTY)
    return marked


def _font(text: str) -> Font:
    if not text.isascii():  # Pillow's own font has no accents, let alone other scripts
        for name in _WIDE_FONTS:
            try:
                return ImageFont.truetype(name, _FONT_PX)
            except OSError:
                continue
    return ImageFont.load_default(_FONT_PX)


def _label_lines(label: str, font: Font) -> list[tuple[str, str]]:
    """Lines that fit under a tile, each with its colour."""
    name, facts, caption = (*label.split("\n", 2), "", "")[:3]
    lines = [(line, _INK) for line in _wrapped(name, font, 1)]
    lines += [(line, _GREY) for line in _wrapped(facts, font, 2)]
    text = _wrapped(caption, font, _MAX_CAPTION_LINES)
    return lines + ([(line, _INK) for line in text] or [("no caption", _EMPTY)])


def _wrapped(text: str, font: Font, max_lines: int) -> list[str]:
    lines: list[str] = []
    rest = " ".join(text.split())[: max_lines * _MAX_LINE_CHARACTERS]
    while rest and len(lines) < max_lines:
        line = rest
        while font.getlength(line) > TILE_PX:
            shorter = line.rpartition(" ")[0]
            line = shorter or line[:-1]  # a word that is wider than the tile is broken
        lines.append(line)
        rest = rest[len(line) :].lstrip()
    if rest:
        lines[-1] = _shortened(lines[-1], font)
    return lines


def _shortened(text: str, font: Font) -> str:
    while text and font.getlength(f"{text}...") > TILE_PX:
        text = text[:-1].rstrip()
    return f"{text}..."


def _draw_label(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    size: tuple[int, int],
    text: Sequence[tuple[str, str]],
    font: Font,
) -> None:
    """Frame a tile and write below it."""
    left, top = corner
    draw.rectangle((left, top, left + size[0] - 1, top + size[1] - 1), outline=_FRAME)
    for place, (line, colour) in enumerate(text):
        draw.text((left, top + size[1] + _TEXT_GAP_PX + place * _LINE_PX), line, colour, font)
