"""Pictures side by side: every pixel in its place, whatever the labels say."""

import pytest
from PIL import Image

from sdlora.sampling.grid import MARGIN_PX, grid


def test_grid_places_every_picture_enlarged_by_whole_pixels():
    rows = [[Image.new("RGB", (64, 64), c) for c in row] for row in (("red", "lime"), ("blue",))]
    rows[0][0].putpixel((0, 0), (1, 2, 3))
    sheet = grid(rows, ["base", "LoRA"], ["a cat", "a man with a very long red hat " * 9])
    cell = 128 + 4
    left, top = sheet.width - 2 * cell, sheet.height - 2 * cell
    corner = sheet.crop((left, top, left + 3, top + 2))
    assert corner.getpixel((1, 1)) == (1, 2, 3)  # one pixel became 2 x 2
    assert corner.getpixel((2, 1)) == (255, 0, 0)
    assert sheet.getpixel((left + 64, top + 64)) == (255, 0, 0)
    assert sheet.getpixel((left + cell + 64, top + 64)) == (0, 255, 0)
    assert sheet.getpixel((left + 64, top + cell + 64)) == (0, 0, 255)
    assert sheet.getpixel((left + cell + 64, top + cell + 64)) == (255, 255, 255)
    labels = sheet.crop((0, top, left, sheet.height)).convert("L")
    headers = sheet.crop((left, 0, sheet.width, top)).convert("L")
    assert labels.getextrema()[0] < 64  # something is written there
    assert headers.getextrema()[0] < 64
    assert top < 130  # a long prompt is cut


def test_grid_keeps_large_pictures_and_odd_shapes():
    sheet = grid(
        [[Image.new("RGB", (300, 200), "red"), None, Image.new("L", (32, 64))]], ["x"], "abc"
    )
    assert sheet.height > 200
    assert sheet.width > 3 * 300


@pytest.mark.parametrize(
    ("rows", "labels", "columns"),
    [([], [], []), ([[None]], ["a"], ["b"]), ([["red"]], [], ["b"]), ([["red"] * 2], ["a"], ["b"])],
)
def test_grid_that_does_not_fit_is_an_error(rows, labels, columns):
    rows = [[c and Image.new("RGB", (8, 8), c) for c in row] for row in rows]
    with pytest.raises(ValueError, match=r"grid|rows"):
        grid(rows, labels, columns)


@pytest.mark.parametrize("label", ["", "   ", "Ärger 猫 🐈", "x" * 500, "two\nlines"])
def test_grid_survives_any_label(label):
    drawn = grid([[Image.new("RGB", (8, 8), "red")]], [label], [label])
    corner = (drawn.width - MARGIN_PX - 1, drawn.height - MARGIN_PX - 1)
    assert drawn.getpixel(corner) == (255, 0, 0)  # whatever room the labels take
