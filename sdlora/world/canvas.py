"""The canvas of portraits, in units of a 64-pixel picture, and its pens."""

from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sdlora.world.scenes import BACKGROUND_RGB, Colour, Scene

CENTRE_X, CENTRE_Y = 32.0, 33.0  # of the face, in units of a 64-pixel picture
INK: Colour = (26, 22, 24)
_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    """The colour at the share ``amount`` of the way from ``a`` to ``b``."""
    r, g, b_ = (round(x + (y - x) * amount) for x, y in zip(a, b, strict=True))
    return r, g, b_


def darker(colour: Colour, amount: float) -> Colour:
    """``colour`` as it is in the shade."""
    return mix(colour, (12, 6, 10), amount)


def lighter(colour: Colour, amount: float) -> Colour:
    """``colour`` as it is in the light."""
    return mix(colour, (255, 250, 240), amount)


def oval(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """Points of an ellipse, ``[36, 2]``, from the right clockwise: the last 18 are above."""
    return np.stack([x + rx * np.cos(_ANGLES), y + ry * np.sin(_ANGLES)], 1)


class Pen(Protocol):
    """The protocol of pens; points are in pixels, x and y in turn."""

    def ground(self, side_px: int, colour: Colour) -> Image.Image:
        """An empty RGB picture with a background."""
        ...

    def fill(self, image: Image.Image, corners: list[float], colour: Colour) -> None:
        """Fill a polygon."""
        ...

    def line(
        self, image: Image.Image, points: list[float], colour: Colour, width_px: float
    ) -> None:
        """Draw a line."""
        ...

    def shade(self, image: Image.Image, mask: Image.Image, colour: Colour) -> None:
        """Shade softly, with the strength (0-255) of a smaller ``mask``."""
        ...


class Brush:
    """A pen of plain colours and soft shades."""

    def ground(self, side_px: int, colour: Colour) -> Image.Image:
        """One colour."""
        return Image.new("RGB", (side_px, side_px), colour)

    def fill(self, image: Image.Image, corners: list[float], colour: Colour) -> None:
        """One colour."""
        ImageDraw.Draw(image).polygon(corners, fill=colour)

    def line(
        self, image: Image.Image, points: list[float], colour: Colour, width_px: float
    ) -> None:
        """A line with round joints, of whole pixels."""
        pen = ImageDraw.Draw(image)
        pen.line(points, fill=colour, width=max(1, round(width_px)), joint="curve")

    def shade(self, image: Image.Image, mask: Image.Image, colour: Colour) -> None:
        """A transparent layer of one colour."""
        image.paste(colour, mask=mask.resize(image.size, Image.Resampling.BILINEAR))


class Canvas:
    """A picture addressed in units of a 64-pixel one, with the head's pose applied."""

    def __init__(self, scene: Scene, side_px: int, pen: Pen) -> None:
        self._unit = side_px / 64
        self._pen = pen
        self.image = pen.ground(side_px, BACKGROUND_RGB[scene.background])
        angle = np.deg2rad(scene.tilt)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self._upright = np.eye(2) * scene.scale
        self._head = turn * scene.scale
        self._pivot = np.array([CENTRE_X, 52.0])
        self._shift = np.array([scene.shift_x, scene.shift_y])

    def _place(self, points: np.ndarray, tilted: bool) -> np.ndarray:
        matrix = self._head if tilted else self._upright
        return (points - self._pivot) @ matrix.T + self._pivot + self._shift

    def shape(self, points: np.ndarray, colour: Colour, tilted: bool = True) -> None:
        """Draw a filled polygon, ``[n, 2]``."""
        placed = self._place(points, tilted) * self._unit
        self._pen.fill(self.image, placed.ravel().tolist(), colour)

    def stroke(self, points: np.ndarray, colour: Colour, width: float) -> None:
        """Draw a line through points, ``[n, 2]``."""
        placed = self._place(points, True) * self._unit
        self._pen.line(self.image, placed.ravel().tolist(), colour, width * self._unit)

    def soft(self, ovals: list[tuple[np.ndarray, int]], colour: Colour, blur: float) -> None:
        """Lay blurred ovals (points, strength 0-255) over the picture."""
        mask = Image.new("L", (64, 64))
        pen = ImageDraw.Draw(mask)
        for points, strength in ovals:
            pen.polygon(self._place(points, True).ravel().tolist(), fill=strength)
        self._pen.shade(self.image, mask.filter(ImageFilter.GaussianBlur(blur)), colour)
