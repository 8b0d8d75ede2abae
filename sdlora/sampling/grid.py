"""Grids: pictures side by side in one picture, with labels."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

MIN_CELL_PX = 128
MARGIN_PX = 4
FONT_PX = 13
MAX_LABEL_LINES = 6


def grid(
    rows: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
) -> Image.Image:
    """Lay pictures out in a labelled table.

    Small pictures are enlarged by a whole factor, pixel by pixel, to at least 128 pixels; larger
    ones keep their size. Pictures smaller than their cell are centred.

    Args:
        rows: Pictures by column; None and the end of a shorter row leave cells empty.
        row_labels: Labels at the left, one for each row.
        column_labels: Labels above the columns, wrapped to their width and cut after 6 lines.

    Raises:
        ValueError: If a row is too long, a row label is missing, or there is no picture.
    """
    if not any(image for row in rows for image in row):
        raise ValueError("rows: no picture to show.")
    if len(row_labels) != len(rows) or max(len(row) for row in rows) > len(column_labels):
        raise ValueError(
            f"grid: {len(rows)} rows of {[len(row) for row in rows]} pictures do not fit "
            f"{len(row_labels)} row labels and {len(column_labels)} column labels."
        )
    cells = [[None if image is None else _enlarged(image) for image in row] for row in rows]
    shown = [image for row in cells for image in row if image is not None]
    width = max(image.width for image in shown)
    height = max(image.height for image in shown)
    font = ImageFont.load_default(size=FONT_PX)
    headers = [_wrapped(label, width, font) for label in column_labels]
    top = _text_height(headers, font) + 2 * MARGIN_PX
    left = max(math.ceil(font.getlength(label)) for label in row_labels) + 2 * MARGIN_PX
    size = (left + len(headers) * (width + MARGIN_PX), top + len(cells) * (height + MARGIN_PX))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, header in enumerate(headers):
        draw.text((left + column * (width + MARGIN_PX), MARGIN_PX), header, "black", font)
    for index, (label, row) in enumerate(zip(row_labels, cells, strict=True)):
        y = top + index * (height + MARGIN_PX)
        draw.text((MARGIN_PX, y + height // 2), label, "black", font, anchor="lm")
        for column, image in enumerate(row):
            if image is not None:
                x = left + column * (width + MARGIN_PX)
                sheet.paste(
                    image, (x + (width - image.width) // 2, y + (height - image.height) // 2)
                )
    return sheet


def _enlarged(image: Image.Image) -> Image.Image:
    factor = math.ceil(MIN_CELL_PX / max(image.size))
    size = (image.width * factor, image.height * factor)
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST)


def _wrapped(text: str, width: int, font: Any) -> str:
    characters = max(int(width / font.getlength("n")), 4)
    lines = textwrap.wrap(text, characters, max_lines=MAX_LABEL_LINES, placeholder=" ...")
    return "\n".join(lines)


def _text_height(texts: Sequence[str], font: Any) -> int:
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    return math.ceil(max(draw.multiline_textbbox((0, 0), text, font)[3] for text in texts))
