"""Draws one identity in one scene with Pillow: large polygons, soft shading, then reduced."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sdlora.world.scenes import (
    BACKGROUND_RGB,
    CLOTH_COLOURS,
    HAIR_COLOURS,
    Colour,
    Identity,
    Scene,
)

_CENTRE_X, _CENTRE_Y = 32.0, 33.0  # of the face, in units of a 64-pixel picture
_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_INK: Colour = (26, 22, 24)


def _mix(a: Colour, b: Colour, amount: float) -> Colour:
    r, g, b_ = (round(x + (y - x) * amount) for x, y in zip(a, b, strict=True))
    return r, g, b_


def _darker(colour: Colour, amount: float) -> Colour:
    return _mix(colour, (12, 6, 10), amount)


def _lighter(colour: Colour, amount: float) -> Colour:
    return _mix(colour, (255, 250, 240), amount)


def _oval(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    return np.stack([x + rx * np.cos(_ANGLES), y + ry * np.sin(_ANGLES)], 1)


class _Canvas:
    """A large picture addressed in units of a 64-pixel one, with the head's pose applied."""

    def __init__(self, scene: Scene, pixels: int) -> None:
        self.unit = pixels / 64
        self.image = Image.new("RGB", (pixels, pixels), BACKGROUND_RGB[scene.background])
        self.pen = ImageDraw.Draw(self.image)
        angle = np.deg2rad(scene.tilt)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.upright = np.eye(2) * scene.scale
        self.head = turn * scene.scale
        self.pivot = np.array([_CENTRE_X, 52.0])
        self.shift = np.array([scene.shift_x, scene.shift_y])

    def _place(self, points: np.ndarray, tilted: bool) -> np.ndarray:
        matrix = self.head if tilted else self.upright
        return (points - self.pivot) @ matrix.T + self.pivot + self.shift

    def shape(self, points: np.ndarray, colour: Colour, tilted: bool = True) -> None:
        placed = self._place(points, tilted) * self.unit
        self.pen.polygon(placed.ravel().tolist(), fill=colour)

    def stroke(self, points: np.ndarray, colour: Colour, width: float) -> None:
        placed = self._place(points, True) * self.unit
        width_px = max(1, round(width * self.unit))
        self.pen.line(placed.ravel().tolist(), fill=colour, width=width_px, joint="curve")

    def soft(self, ovals: list[tuple[np.ndarray, int]], colour: Colour, blur: float) -> None:
        """Lay blurred ovals (points, strength 0-255) over the picture."""
        mask = Image.new("L", (64, 64))
        pen = ImageDraw.Draw(mask)
        for points, strength in ovals:
            pen.polygon(self._place(points, True).ravel().tolist(), fill=strength)
        mask = mask.filter(ImageFilter.GaussianBlur(blur))
        self.image.paste(colour, mask=mask.resize(self.image.size, Image.Resampling.BILINEAR))


def _face_outline(face: Identity, kind: str, grow: float = 0.0) -> np.ndarray:
    """Points of the face's edge: a superellipse that narrows towards the chin."""
    jaw = face.jaw + (0.1 if kind == "woman" else -0.04)
    power = 2 / (face.squareness + (0.35 if kind == "man" else 0.0))
    cos, sin = np.cos(_ANGLES), np.sin(_ANGLES)
    x = np.sign(cos) * np.abs(cos) ** power
    y = np.sign(sin) * np.abs(sin) ** power
    narrowing = 1 - jaw * np.clip(y, 0, 1) ** 2
    width, height = face.face_width + grow, face.face_height + grow
    return np.stack([_CENTRE_X + width * x * narrowing, _CENTRE_Y + height * y], 1)


def _back_hair(canvas: _Canvas, face: Identity, scene: Scene, colour: Colour) -> None:
    w, h, top = face.face_width, face.face_height, _CENTRE_Y
    shade = _darker(colour, 0.22)
    if scene.hair_style in ("long", "ponytail"):
        drop = 24 if scene.hair_style == "long" else 10
        reach = 4.2 if scene.hair_style == "long" else 2.2
        curve = _oval(_CENTRE_X, top - 3, w + reach, h + 1.5)[18:]
        sides = [[_CENTRE_X + w + reach, top + drop], [_CENTRE_X - w - reach, top + drop]]
        canvas.shape(np.concatenate([curve, np.array(sides)]), shade)
        if scene.hair_style == "ponytail":
            canvas.shape(_oval(_CENTRE_X + w + 4.5, top + 10, 4.6, 13), colour)
    elif scene.hair_style == "bob":
        curve = _oval(_CENTRE_X, top - 2, w + 4, h + 2)[18:]
        sides = [[_CENTRE_X + w + 5, top + 13], [_CENTRE_X - w - 5, top + 13]]
        canvas.shape(np.concatenate([curve, np.array(sides)]), shade)
    elif scene.hair_style == "curly":
        reach = 14 if scene.kind == "woman" else -2
        for y in np.arange(-h + 4, reach + 0.1, 5.0):
            for side in (-1, 1):
                x = _CENTRE_X + side * w * np.sqrt(max(0.0, 1 - (min(y, 0) / (h + 2)) ** 2))
                canvas.shape(_oval(x, top + y, 5.0, 4.6), shade)
    elif scene.hair_style == "bun" and scene.hat is None:
        canvas.shape(_oval(_CENTRE_X, top - h - 3.5, 6.5, 5.5), shade)
        canvas.shape(_oval(_CENTRE_X - 1, top - h - 4.5, 3.5, 2.5), _lighter(colour, 0.15))


def _hairline(style: str, w: float, y: float) -> list[list[float]]:
    """The inner edge of the hair, from the right temple to the left one."""
    x = _CENTRE_X
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


def _front_hair(canvas: _Canvas, face: Identity, scene: Scene, colour: Colour) -> None:
    w, h = face.face_width, face.face_height
    y = _CENTRE_Y - 0.5 * h
    outer = _oval(_CENTRE_X, _CENTRE_Y - 2.2, w + 1.5, h + 1.0)[18:]
    ends = np.array([[_CENTRE_X + w + 1.5, _CENTRE_Y - 0.5]])
    start = np.array([[_CENTRE_X - w - 1.5, _CENTRE_Y - 0.5]])
    inner = np.array(_hairline(scene.hair_style, w, y))
    canvas.shape(np.concatenate([start, outer, ends, inner]), colour)
    if scene.hair_style == "curly" and scene.hat is None:
        for angle in np.linspace(np.pi * 1.02, np.pi * 1.98, 8):
            x, top = _CENTRE_X + (w + 0.5) * np.cos(angle), _CENTRE_Y - 2 + h * np.sin(angle)
            canvas.shape(_oval(x, top, 4.2, 3.8), colour)
    if scene.hair_style == "spiky" and scene.hat is None:
        for x in np.linspace(-0.8, 0.8, 6) * w:
            base = _CENTRE_Y - 1 - h * np.sqrt(1 - (x / (w + 1.5)) ** 2)
            spike = [[x - 2.8, base + 2.5], [x * 1.15, base - 4.5], [x + 2.8, base + 2.5]]
            canvas.shape(np.array(spike) + [_CENTRE_X, 0], colour)
    for x in (-0.45, 0.05, 0.5):
        arc = [[x * w, -0.88 * h], [x * w * 1.25, -0.68 * h]]
        strand = _lighter(colour, 0.2) if scene.hair_colour == "black" else _darker(colour, 0.25)
        canvas.stroke(np.array(arc) + [_CENTRE_X, _CENTRE_Y], strand, 0.9)


def _hat(canvas: _Canvas, face: Identity, scene: Scene) -> None:
    if scene.hat is None:
        return
    colour = CLOTH_COLOURS[scene.hat]
    band = _lighter(colour, 0.3) if scene.hat == "black" else _darker(colour, 0.35)
    w, x = face.face_width, _CENTRE_X
    y = _CENTRE_Y - 0.56 * face.face_height
    if scene.hat_style == "top hat":
        crown = [[x - w + 1.5, y], [x - w + 0.5, y - 15], [x + w - 0.5, y - 15], [x + w - 1.5, y]]
        canvas.shape(np.array(crown), colour)
        strip = [[x - w + 1.4, y], [x - w + 1.2, y - 3], [x + w - 1.2, y - 3], [x + w - 1.4, y]]
        canvas.shape(np.array(strip), band)
        canvas.shape(_oval(x, y, w + 5, 2.0), colour)
    elif scene.hat_style == "bowler hat":
        canvas.shape(_oval(x, y, w + 0.5, 12.5)[18:], colour)
        strip = [[x - w - 0.3, y], [x - w + 0.2, y - 2.8], [x + w - 0.2, y - 2.8], [x + w + 0.3, y]]
        canvas.shape(np.array(strip), band)
        canvas.shape(_oval(x, y, w + 4.5, 1.8), colour)
    else:
        canvas.shape(_oval(x, y + 1, w + 2, 13)[18:], colour)
        canvas.shape(_oval(x, y - 12, 3, 3), _lighter(colour, 0.35))
        fold = [
            [x - w - 2, y + 1],
            [x - w - 1.6, y - 3.4],
            [x + w + 1.6, y - 3.4],
            [x + w + 2, y + 1],
        ]
        canvas.shape(np.array(fold), band)


def _body(canvas: _Canvas, face: Identity, scene: Scene) -> None:
    shirt = CLOTH_COLOURS[scene.shirt]
    man = scene.kind == "man"
    chin = _CENTRE_Y + face.face_height
    neck = face.face_width * (0.56 if man else 0.4)
    reach, x = (25.0 if man else 19.5), _CENTRE_X
    top = 53.5 if man else 55.0
    shoulders = [[x - reach, 76], [x - reach, top + 6], [x - reach * 0.82, top + 1.6],
                 [x - neck - 1, top - 2], [x + neck + 1, top - 2], [x + reach * 0.82, top + 1.6],
                 [x + reach, top + 6], [x + reach, 76]]  # fmt: skip
    canvas.shape(np.array(shoulders), shirt, tilted=False)
    column = [[x - neck, chin - 8], [x + neck, chin - 8], [x + neck, top], [x - neck, top]]
    canvas.shape(np.array(column), _darker(face.skin, 0.12))
    if man:
        collar = _lighter(shirt, 0.3) if scene.shirt == "black" else _darker(shirt, 0.25)
        canvas.shape(_oval(x, top - 0.6, neck + 1.6, 2.6), collar, tilted=False)
        canvas.shape(_oval(x, top - 1.8, neck, 2.2), _darker(face.skin, 0.12), tilted=False)
    else:
        canvas.shape(_oval(x, top - 1.5, neck + 5.0, 6.5), _darker(face.skin, 0.06), tilted=False)


def _head(canvas: _Canvas, face: Identity, scene: Scene) -> None:
    skin, size = face.skin, face.ear_size
    for side in (-1, 1):
        ear = _CENTRE_X + side * (face.face_width + 0.3 * size)
        canvas.shape(_oval(ear, _CENTRE_Y + 1, size * 0.75, size), _darker(skin, 0.14))
        canvas.shape(_oval(ear, _CENTRE_Y + 1, size * 0.35, size * 0.6), _darker(skin, 0.28))
    canvas.shape(_face_outline(face, scene.kind, 0.45), _darker(skin, 0.3))
    canvas.shape(_face_outline(face, scene.kind), skin)


def _shading(canvas: _Canvas, face: Identity) -> None:
    """Darker sockets and nose, lighter cheeks and forehead: what a face detector looks for."""
    x, y, w, h = _CENTRE_X, _CENTRE_Y, face.face_width, face.face_height
    eyes = y - 0.4
    dark = [(_oval(x + side * face.eye_spacing, eyes - 0.8, 5.0, 3.2), 200) for side in (-1, 1)]
    nose = eyes + face.nose_length
    dark += [(_oval(x, nose + 1.2, face.nose_width + 1.6, 1.5), 170)]
    dark += [
        (_oval(x, y + h * 0.86, w * 0.3, 0.9), 70),
        (_oval(x, y + h + 2.5, w * 0.42, 3.4), 150),
    ]
    canvas.soft(dark, _darker(face.skin, 0.7), 0.8)
    light = [(_oval(x, eyes + face.nose_length * 0.4, 1.3, face.nose_length * 0.6), 230)]
    light += [(_oval(x + side * w * 0.5, y + h * 0.28, 5.0, 3.6), 190) for side in (-1, 1)]
    light += [(_oval(x, y - h * 0.42, w * 0.7, 3.2), 255)]
    canvas.soft(light, _lighter(face.skin, 0.6), 0.7)
    if face.blush > 0.35:
        red = [
            (_oval(x + s * w * 0.58, y + h * 0.36, 3, 2.2), int(130 * face.blush)) for s in (-1, 1)
        ]
        canvas.soft(red, _mix(face.skin, (226, 60, 70), 0.55), 1.0)


def _eye(canvas: _Canvas, face: Identity, scene: Scene, side: int) -> None:
    x, y = _CENTRE_X + side * face.eye_spacing, _CENTRE_Y - 0.4
    rx, ry = face.eye_size, face.eye_size * face.eye_open
    outer, tilt = x + side * rx, face.eye_tilt
    white = _oval(x, y, rx, ry)
    white[:, 1] -= tilt * side * (white[:, 0] - x) / rx
    canvas.shape(white, (222, 218, 214))
    iris = min(ry * 1.1, rx * 0.72)
    canvas.shape(_oval(x, y, iris, iris), face.eye_colour)
    canvas.shape(_oval(x, y, iris * 0.5, iris * 0.5), _INK)
    lid = white[18:]
    canvas.stroke(np.concatenate([lid, white[:1]]), _darker(face.skin, 0.75), 0.75)
    if scene.kind == "woman":
        canvas.stroke(np.concatenate([lid, white[:1]]), _INK, 1.25)
        wing = [[outer - side * 0.8, y - tilt], [outer + side * 2.0, y - tilt - 1.9]]
        canvas.stroke(np.array(wing), _INK, 1.1)
    brow_y = y - face.brow_height
    weight = face.brow_weight * (0.6 if scene.kind == "woman" else 0.95)
    slope = face.brow_angle
    brow = [[x - side * 3.6, brow_y + slope * 0.8], [x, brow_y - 0.8],
            [x + side * 4.0, brow_y + 0.4 - slope * 0.8]]  # fmt: skip
    canvas.stroke(np.array(brow), _darker(face.skin, 0.66), weight)


def _mouth(canvas: _Canvas, face: Identity, scene: Scene) -> None:
    x, y = _CENTRE_X, _CENTRE_Y + face.mouth_height * face.face_height
    woman = scene.kind == "woman"
    lip = (204, 30, 66) if woman else _mix(_darker(face.skin, 0.3), (170, 60, 60), 0.35)
    w, full = face.mouth_width, face.lip_fullness * (1.25 if woman else 0.75)
    if scene.smile:
        w *= 1.12
        grid = np.linspace(-1, 1, 13)
        upper = np.stack([x + w * grid, y - 1.6 + 1.4 * (1 - grid**2)], 1)
        lower = np.stack([x + w * grid, y - 1.6 + (2.8 + full) * (1 - grid**2)], 1)
        canvas.shape(np.concatenate([upper - [0, full * 0.7], lower[::-1] + [0, full * 0.6]]), lip)
        canvas.shape(np.concatenate([upper, lower[::-1]]), (215, 205, 200))
    else:
        canvas.shape(_oval(x, y, w, full + 0.35), lip)
        line = np.array([[x - w, y], [x, y + 0.2], [x + w, y]])
        canvas.stroke(line, _darker(lip, 0.6), 0.7)


def _beard(canvas: _Canvas, face: Identity, scene: Scene) -> None:
    if not scene.beard:
        return
    colour = HAIR_COLOURS[scene.hair_colour]
    y = _CENTRE_Y + (face.mouth_height - 0.2) * face.face_height
    outline = _face_outline(face, scene.kind, 0.9)
    low = outline[outline[:, 1] > _CENTRE_Y + 2.5]
    low = low[np.argsort(low[:, 0])]
    inner = [[_CENTRE_X + face.face_width * 0.72, y + 1.5], [_CENTRE_X + 4.5, y + 0.3],
             [_CENTRE_X - 4.5, y + 0.3], [_CENTRE_X - face.face_width * 0.72, y + 1.5]]  # fmt: skip
    canvas.shape(np.concatenate([low, np.array(inner)]), _darker(colour, 0.12))


def _features(canvas: _Canvas, face: Identity, scene: Scene) -> None:
    x, y = _CENTRE_X, _CENTRE_Y
    tip, wide = y - 0.4 + face.nose_length, face.nose_width
    nose = [
        [x - wide, tip],
        [x - wide * 0.4, tip + 1.0],
        [x + wide * 0.4, tip + 1.0],
        [x + wide, tip],
    ]
    canvas.stroke(np.array(nose), _darker(face.skin, 0.55), 0.9)
    _beard(canvas, face, scene)
    _mouth(canvas, face, scene)
    for side in (-1, 1):
        _eye(canvas, face, scene, side)
    if face.freckles:
        for dx, dy in ((0.34, 0.18), (0.5, 0.3), (0.62, 0.16), (0.46, 0.08)):
            for side in (-1, 1):
                spot = _oval(x + side * dx * face.face_width, y + dy * face.face_height, 0.55, 0.55)
                canvas.shape(spot, _mix(_darker(face.skin, 0.4), (150, 70, 30), 0.3))
    for dx, dy in face.moles:
        spot = _oval(x + dx * face.face_width, y + dy * face.face_height, 1.15, 1.15)
        canvas.shape(spot, (44, 24, 20))


def _glasses(canvas: _Canvas, face: Identity) -> None:
    y = _CENTRE_Y - 1.3
    r = min(5.0, face.eye_spacing - 0.9)
    for side in (-1, 1):
        x = _CENTRE_X + side * face.eye_spacing
        rim = _oval(x, y, r, 4.3)
        canvas.stroke(np.concatenate([rim, rim[:2]]), _INK, 1.0)
        arm = [[x + side * r, y], [_CENTRE_X + side * (face.face_width + 0.5), y - 1]]
        canvas.stroke(np.array(arm), _INK, 1.0)
    gap = face.eye_spacing - r
    canvas.stroke(np.array([[_CENTRE_X - gap, y], [_CENTRE_X + gap, y]]), _INK, 1.0)


def draw(identity: Identity, scene: Scene, size: int = 64) -> Image.Image:
    """Draw a head-and-shoulders portrait.

    Args:
        identity: Whose face.
        scene: In which hair, clothes, place and pose.
        size: Edge of the square picture in pixels; it is drawn larger and reduced.

    Returns:
        An RGB picture, ``size`` by ``size``; the same for the same arguments.
    """
    canvas = _Canvas(scene, max(256, 2 * size))
    hair = HAIR_COLOURS[scene.hair_colour]
    bald = scene.hair_style == "bald"
    if not bald:
        _back_hair(canvas, identity, scene, hair)
    _body(canvas, identity, scene)
    _head(canvas, identity, scene)
    _shading(canvas, identity)
    _features(canvas, identity, scene)
    if not bald:
        _front_hair(canvas, identity, scene, hair)
    _hat(canvas, identity, scene)
    if scene.glasses:
        _glasses(canvas, identity)
    return canvas.image.resize((size, size), Image.Resampling.BOX)
