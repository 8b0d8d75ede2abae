"""Pictures without a face, for training: blanks, noise, scrambled portraits, things."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sdlora.world.portraits import portrait
from sdlora.world.scenes import BACKGROUND_RGB, CLOTH_COLOURS, Colour

_SIZE_PX = 64
_DRAWN_PX = 256


def _any_colour(rng: np.random.Generator) -> Colour:
    r, g, b = (int(v) for v in rng.integers(0, 256, 3))
    return r, g, b


def _blank(seed: int, rng: np.random.Generator) -> Image.Image:
    top, bottom = np.array(_any_colour(rng)), np.array(_any_colour(rng))
    strength = float(rng.choice([0.0, 1.0]))
    ramp = np.linspace(0, strength, _SIZE_PX)[:, None, None]
    rows = top + ramp * (bottom - top)
    return Image.fromarray(np.broadcast_to(rows, (_SIZE_PX, _SIZE_PX, 3)).astype(np.uint8))


def _noise(seed: int, rng: np.random.Generator) -> Image.Image:
    cells = int(rng.choice([4, 8, 16, 32, 64]))
    grain = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
    return Image.fromarray(grain).resize((_SIZE_PX, _SIZE_PX), Image.Resampling.BICUBIC)


def _scrambled(seed: int, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(portrait(seed).image)
    cell = int(rng.choice([8, 16]))
    n = _SIZE_PX // cell
    cells = pixels.reshape(n, cell, n, cell, 3).swapaxes(1, 2).reshape(n * n, cell, cell, 3)
    cells = cells[rng.permutation(n * n)].reshape(n, n, cell, cell, 3)
    return Image.fromarray(cells.swapaxes(1, 2).reshape(_SIZE_PX, _SIZE_PX, 3))


def _washed_out(seed: int, rng: np.random.Generator) -> Image.Image:
    blurred = portrait(seed).image.filter(ImageFilter.GaussianBlur(float(rng.uniform(7, 14))))
    return blurred.resize((_SIZE_PX, _SIZE_PX))


def _thing(seed: int, rng: np.random.Generator) -> Image.Image:
    """A house, a tree, or a heap of shapes on a plain background."""
    backgrounds = list(BACKGROUND_RGB.values())
    colours = list(CLOTH_COLOURS.values())
    image = Image.new("RGB", (_DRAWN_PX, _DRAWN_PX), backgrounds[rng.integers(len(backgrounds))])
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 7))):
        colour = colours[rng.integers(len(colours))] if rng.random() < 0.6 else _any_colour(rng)
        x, y = rng.uniform(20, 190, 2)
        w, h = rng.uniform(20, 130, 2)
        form = int(rng.integers(4))
        if form == 0:
            pen.rectangle((x, y, x + w, y + h), fill=colour)
        elif form == 1:
            pen.ellipse((x, y, x + w, y + h), fill=colour)
        elif form == 2:
            pen.polygon([(x, y + h), (x + w / 2, y), (x + w, y + h)], fill=colour)
        else:
            pen.line((x, y, x + w, y + h), fill=colour, width=int(rng.integers(3, 20)))
    return image.resize((_SIZE_PX, _SIZE_PX), Image.Resampling.BOX)


def _erased(seed: int, rng: np.random.Generator) -> Image.Image:
    """A portrait whose face is painted over with one colour."""
    image = portrait(seed).image.resize((_DRAWN_PX, _DRAWN_PX), Image.Resampling.BICUBIC)
    colour = image.getpixel((_DRAWN_PX // 2, 150))
    ImageDraw.Draw(image).ellipse((62, 62, 194, 208), fill=colour)
    return image.resize((_SIZE_PX, _SIZE_PX), Image.Resampling.BOX)


_KINDS = (_blank, _noise, _scrambled, _washed_out, _thing, _erased)


def faceless(seed: int) -> Image.Image:
    """Draw a 64x64 RGB picture without a face, a function of ``seed``."""
    rng = np.random.default_rng([4, seed])
    return _KINDS[seed % len(_KINDS)](seed, rng)
