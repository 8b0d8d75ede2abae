"""Drawing of hair (behind and in front of the face) and hat."""

import numpy as np

from sdlora.world.canvas import CENTRE_X, CENTRE_Y, Canvas, darker, lighter, oval
from sdlora.world.scenes import CLOTH_COLOURS, Colour, Identity, Scene


def back_hair(canvas: Canvas, face: Identity, scene: Scene, colour: Colour) -> None:
    """Draw the hair behind the head."""
    w, h, top = face.face_width, face.face_height, CENTRE_Y
    shade = darker(colour, 0.22)
    if scene.hair_style in ("long", "ponytail"):
        drop = 24 if scene.hair_style == "long" else 10
        reach = 4.2 if scene.hair_style == "long" else 2.2
        curve = oval(CENTRE_X, top - 3, w + reach, h + 1.5)[18:]
        sides = [[CENTRE_X + w + reach, top + drop], [CENTRE_X - w - reach, top + drop]]
        canvas.shape(np.concatenate([curve, np.array(sides)]), shade)
        if scene.hair_style == "ponytail":
            canvas.shape(oval(CENTRE_X + w + 4.5, top + 10, 4.6, 13), colour)
    elif scene.hair_style == "bob":
        curve = oval(CENTRE_X, top - 2, w + 4, h + 2)[18:]
        sides = [[CENTRE_X + w + 5, top + 13], [CENTRE_X - w - 5, top + 13]]
        canvas.shape(np.concatenate([curve, np.array(sides)]), shade)
    elif scene.hair_style == "curly":
        reach = 14 if scene.kind == "woman" else -2
        for y in np.arange(-h + 4, reach + 0.1, 5.0):
            for side in (-1, 1):
                x = CENTRE_X + side * w * np.sqrt(max(0.0, 1 - (min(y, 0) / (h + 2)) ** 2))
                canvas.shape(oval(x, top + y, 5.0, 4.6), shade)
    elif scene.hair_style == "bun" and scene.hat is None:
        canvas.shape(oval(CENTRE_X, top - h - 3.5, 6.5, 5.5), shade)
        canvas.shape(oval(CENTRE_X - 1, top - h - 4.5, 3.5, 2.5), lighter(colour, 0.15))


def _hairline(style: str, w: float, y: float) -> list[list[float]]:
    """The inner edge of the hair, from the right temple to the left one."""
    x = CENTRE_X
    if style in ("parted", "ponytail"):
        return [
            [x + w - 2.4, y + 5],
            [x + w * 0.5, y - 1],
            [x - w * 0.35, y - 4],
            [x - w + 2, y + 5],
        ]
    if style in ("long", "curly"):
        return [[x + w - 2, y + 6], [x + w * 0.4, y - 1], [x, y - 4], [x - w * 0.4, y - 1],
                [x - w + 2, y + 6]]  # fmt: skip
    if style == "bob":
        return [[x + w - 2, y + 8], [x + w - 3, y + 1.5], [x - w + 3, y + 1.5], [x - w + 2, y + 8]]
    return [
        [x + w - 1.6, y + 5],
        [x + w * 0.6, y - 1.5],
        [x - w * 0.6, y - 1.5],
        [x - w + 1.6, y + 5],
    ]


def front_hair(canvas: Canvas, face: Identity, scene: Scene, colour: Colour) -> None:
    """Draw the hair that frames the face, down to the hairline."""
    w, h = face.face_width, face.face_height
    y = CENTRE_Y - 0.5 * h
    outer = oval(CENTRE_X, CENTRE_Y - 2.2, w + 1.5, h + 1.0)[18:]
    ends = np.array([[CENTRE_X + w + 1.5, CENTRE_Y - 0.5]])
    start = np.array([[CENTRE_X - w - 1.5, CENTRE_Y - 0.5]])
    inner = np.array(_hairline(scene.hair_style, w, y))
    canvas.shape(np.concatenate([start, outer, ends, inner]), colour)
    if scene.hair_style == "curly" and scene.hat is None:
        for angle in np.linspace(np.pi * 1.02, np.pi * 1.98, 8):
            x, top = CENTRE_X + (w + 0.5) * np.cos(angle), CENTRE_Y - 2 + h * np.sin(angle)
            canvas.shape(oval(x, top, 4.2, 3.8), colour)
    if scene.hair_style == "spiky" and scene.hat is None:
        for x in np.linspace(-0.8, 0.8, 6) * w:
            base = CENTRE_Y - 1 - h * np.sqrt(1 - (x / (w + 1.5)) ** 2)
            spike = [[x - 2.8, base + 2.5], [x * 1.15, base - 4.5], [x + 2.8, base + 2.5]]
            canvas.shape(np.array(spike) + [CENTRE_X, 0], colour)
    for x in (-0.45, 0.05, 0.5):
        arc = [[x * w, -0.88 * h], [x * w * 1.25, -0.68 * h]]
        strand = lighter(colour, 0.2) if scene.hair_colour == "black" else darker(colour, 0.25)
        canvas.stroke(np.array(arc) + [CENTRE_X, CENTRE_Y], strand, 0.9)


def hat(canvas: Canvas, face: Identity, scene: Scene) -> None:
    """Draw the hat, if there is one."""
    if scene.hat is None:
        return
    colour = CLOTH_COLOURS[scene.hat]
    band = lighter(colour, 0.3) if scene.hat == "black" else darker(colour, 0.35)
    w, x = face.face_width, CENTRE_X
    y = CENTRE_Y - 0.56 * face.face_height
    if scene.hat_style == "top hat":
        crown = [[x - w + 1.5, y], [x - w + 0.5, y - 15], [x + w - 0.5, y - 15], [x + w - 1.5, y]]
        canvas.shape(np.array(crown), colour)
        strip = [[x - w + 1.4, y], [x - w + 1.2, y - 3], [x + w - 1.2, y - 3], [x + w - 1.4, y]]
        canvas.shape(np.array(strip), band)
        canvas.shape(oval(x, y, w + 5, 2.0), colour)
    elif scene.hat_style == "bowler hat":
        canvas.shape(oval(x, y, w + 0.5, 12.5)[18:], colour)
        strip = [[x - w - 0.3, y], [x - w + 0.2, y - 2.8], [x + w - 0.2, y - 2.8], [x + w + 0.3, y]]
        canvas.shape(np.array(strip), band)
        canvas.shape(oval(x, y, w + 4.5, 1.8), colour)
    else:
        canvas.shape(oval(x, y + 1, w + 2, 13)[18:], colour)
        canvas.shape(oval(x, y - 12, 3, 3), lighter(colour, 0.35))
        fold = [
            [x - w - 2, y + 1],
            [x - w - 1.6, y - 3.4],
            [x + w + 1.6, y - 3.4],
            [x + w + 2, y + 1],
        ]
        canvas.shape(np.array(fold), band)
