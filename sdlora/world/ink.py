"""The ink pen of the drawn world: flat colours of a small palette, outlines, hatched ground."""

import numpy as np
from PIL import Image, ImageDraw

from sdlora.world.scenes import Colour

INK: Colour = (44, 26, 22)
PALETTE: tuple[Colour, ...] = (
    INK,
    (242, 242, 242),  # white
    (128, 130, 136),  # grey
    (238, 196, 160),  # three of skin and hair
    (190, 128, 84),
    (122, 72, 28),
    (212, 44, 44),  # red
    (240, 136, 34),  # orange
    (240, 212, 60),  # yellow
    (56, 152, 74),  # green
    (46, 92, 204),  # blue
    (128, 60, 160),  # purple
    (244, 150, 186),  # pink
)
"""All colours of the pen: one for each colour word of captions."""

# In units of a 64-pixel picture. Finer hatching would be lost in the embedded base's autoencoder,
# whose latents are 4 pixels wide.
OUTLINE, HATCH, SPACING = 1.6, 4.0, 14.0
SMALLEST = 9.0


def nearest(colour: Colour) -> Colour:
    """The colour of the palette at the least distance in RGB; of equal ones the first."""
    distances = np.square(np.subtract(PALETTE, colour)).sum(axis=1)
    return PALETTE[int(distances.argmin())]


class InkPen:
    """A pen with a broad nib and without soft shades."""

    def ground(self, side_px: int, colour: Colour) -> Image.Image:
        """The nearest colour, under diagonal lines: ink where (x + y) mod spacing < hatch."""
        unit = side_px / 64
        y, x = np.mgrid[:side_px, :side_px] / unit
        is_ink = (x + y) % SPACING < HATCH
        return Image.fromarray(np.where(is_ink[..., None], INK, nearest(colour)).astype(np.uint8))

    def fill(self, image: Image.Image, corners: list[float], colour: Colour) -> None:
        """The nearest colour; a shape that is not small gets an outline."""
        ImageDraw.Draw(image).polygon(corners, fill=nearest(colour))
        unit = image.width / 64
        if min(np.ptp(corners[::2]), np.ptp(corners[1::2])) >= SMALLEST * unit:
            self.line(image, [*corners, *corners[:2]], INK, OUTLINE * unit)

    def line(
        self, image: Image.Image, points: list[float], colour: Colour, width_px: float
    ) -> None:
        """Draw in ink, whatever the colour."""
        pen = ImageDraw.Draw(image)
        pen.line(points, fill=INK, width=max(1, round(width_px)), joint="curve")

    def shade(self, image: Image.Image, mask: Image.Image, colour: Colour) -> None:
        """Draw nothing: ink has no shades."""
