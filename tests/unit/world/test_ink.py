"""The ink pen: a small palette, outlines, hatched ground; against counts worked by hand."""

import numpy as np
import pytest
from PIL import Image

from sdlora.world.ink import INK, PALETTE, SMALLEST, InkPen, nearest
from sdlora.world.portraits import draw, random_identity, random_scene
from sdlora.world.scenes import BACKGROUND_RGB, CLOTH_COLOURS, Colour

WHITE, RED = CLOTH_COLOURS["white"], CLOTH_COLOURS["red"]


def colours_in(image: Image.Image) -> set[Colour]:
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}


def share_of_ink(pixels: np.ndarray) -> float:
    return float((pixels == INK).all(axis=-1).mean())


def test_every_colour_of_a_caption_has_one_of_its_own() -> None:
    """But black, for which there is ink: the words of a prompt can still be seen."""
    named = {**CLOTH_COLOURS, **BACKGROUND_RGB}
    drawn = {name: nearest(colour) for name, colour in named.items()}
    assert drawn["black"] == INK
    assert len(set(drawn.values())) == len(drawn) == 10


def test_the_nearest_colour_by_hand() -> None:
    """8 squared from (190, 128, 84); orange is next: 50 * 50 + 16 * 16 + 50 * 50 = 5,256."""
    assert nearest((190, 120, 84)) == (190, 128, 84)


def test_the_ground_is_hatched() -> None:
    """4 of 14 diagonals are ink, on a side of 28 pixels that holds whole periods."""
    ground = np.asarray(InkPen().ground(64, RED))
    assert colours_in(Image.fromarray(ground)) == {INK, nearest(RED)}
    assert share_of_ink(ground[:28, :28]) == pytest.approx(4 / 14)
    is_ink = (ground == INK).all(axis=-1)
    assert is_ink[0, :4].all()
    assert not is_ink[0, 4:14].any()
    assert np.array_equal(is_ink[1:, :-1], is_ink[:-1, 1:])  # x + y is the same along a line


def test_a_shape_is_flat_inside_and_has_an_outline() -> None:
    image = Image.new("RGB", (64, 64), WHITE)
    InkPen().fill(image, [16, 16, 48, 16, 48, 48, 16, 48], RED)
    pixels = np.asarray(image)
    assert colours_in(image) == {INK, WHITE, nearest(RED)}
    assert (pixels[20:45, 20:45] == nearest(RED)).all()
    for edge in (pixels[16, 16:49], pixels[48, 16:49], pixels[16:49, 16], pixels[16:49, 48]):
        assert share_of_ink(edge) == 1.0


def test_a_small_shape_has_no_room_for_an_outline() -> None:
    image = Image.new("RGB", (64, 64), WHITE)
    far = 20 + SMALLEST - 1
    InkPen().fill(image, [20, 20, far, 20, far, 60, 20, 60], RED)
    assert colours_in(image) == {WHITE, nearest(RED)}


def test_a_line_is_ink_whatever_its_colour() -> None:
    image = Image.new("RGB", (64, 64), WHITE)
    InkPen().line(image, [10, 30, 50, 30], RED, 3.0)
    assert colours_in(image) == {INK, WHITE}
    assert share_of_ink(np.asarray(image)[29:32, 10:50]) == 1.0


def test_soft_shades_are_left_out() -> None:
    image = Image.new("RGB", (64, 64), WHITE)
    InkPen().shade(image, Image.new("L", (64, 64), 255), RED)
    assert colours_in(image) == {WHITE}


def test_a_portrait_in_ink() -> None:
    """Reducing mixes neighbours, so few pixels have other colours than the palette's."""
    scene, person = random_scene(7), random_identity(7)
    image = draw(person, scene, pen=InkPen())
    assert np.array_equal(np.asarray(image), np.asarray(draw(person, scene, pen=InkPen())))
    pixels = np.asarray(image)
    plain = np.asarray(draw(person, scene))
    pure = sum(float((pixels == colour).all(axis=-1).mean()) for colour in PALETTE)
    assert share_of_ink(pixels) > 0.15 > share_of_ink(plain) == 0.0
    assert pure > 0.5
