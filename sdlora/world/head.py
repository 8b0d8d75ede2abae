"""Drawing of the head: outline, shading, features, beard and glasses."""

import numpy as np

from sdlora.world.canvas import CENTRE_X, CENTRE_Y, INK, Canvas, darker, lighter, mix, oval
from sdlora.world.scenes import HAIR_COLOURS, Identity, Scene


def _face_outline(face: Identity, kind: str, grow: float = 0.0) -> np.ndarray:
    """Points of the face's edge: a superellipse that narrows towards the chin."""
    jaw = face.jaw + (0.1 if kind == "woman" else -0.04)
    power = 2 / (face.squareness + (0.35 if kind == "man" else 0.0))
    cos, sin = oval(0, 0, 1, 1).T
    x = np.sign(cos) * np.abs(cos) ** power
    y = np.sign(sin) * np.abs(sin) ** power
    narrowing = 1 - jaw * np.clip(y, 0, 1) ** 2
    width, height = face.face_width + grow, face.face_height + grow
    return np.stack([CENTRE_X + width * x * narrowing, CENTRE_Y + height * y], 1)


def head(canvas: Canvas, face: Identity, scene: Scene) -> None:
    """Draw ears and face."""
    skin, size = face.skin, face.ear_size
    for side in (-1, 1):
        ear = CENTRE_X + side * (face.face_width + 0.3 * size)
        canvas.shape(oval(ear, CENTRE_Y + 1, size * 0.75, size), darker(skin, 0.14))
        canvas.shape(oval(ear, CENTRE_Y + 1, size * 0.35, size * 0.6), darker(skin, 0.28))
    canvas.shape(_face_outline(face, scene.kind, 0.45), darker(skin, 0.3))
    canvas.shape(_face_outline(face, scene.kind), skin)


def shading(canvas: Canvas, face: Identity) -> None:
    """Draw darker sockets and nose, lighter cheeks and forehead, which face detectors need."""
    x, y, w, h = CENTRE_X, CENTRE_Y, face.face_width, face.face_height
    eyes = y - 0.4
    dark = [(oval(x + side * face.eye_spacing, eyes - 0.8, 5.0, 3.2), 200) for side in (-1, 1)]
    nose = eyes + face.nose_length
    dark += [(oval(x, nose + 1.2, face.nose_width + 1.6, 1.5), 170)]
    dark += [
        (oval(x, y + h * 0.86, w * 0.3, 0.9), 70),
        (oval(x, y + h + 2.5, w * 0.42, 3.4), 150),
    ]
    canvas.soft(dark, darker(face.skin, 0.7), 0.8)
    light = [(oval(x, eyes + face.nose_length * 0.4, 1.3, face.nose_length * 0.6), 230)]
    light += [(oval(x + side * w * 0.5, y + h * 0.28, 5.0, 3.6), 190) for side in (-1, 1)]
    light += [(oval(x, y - h * 0.42, w * 0.7, 3.2), 255)]
    canvas.soft(light, lighter(face.skin, 0.6), 0.7)
    if face.blush > 0.35:
        red = [
            (oval(x + s * w * 0.58, y + h * 0.36, 3, 2.2), int(130 * face.blush)) for s in (-1, 1)
        ]
        canvas.soft(red, mix(face.skin, (226, 60, 70), 0.55), 1.0)


def _eye(canvas: Canvas, face: Identity, scene: Scene, side: int) -> None:
    x, y = CENTRE_X + side * face.eye_spacing, CENTRE_Y - 0.4
    rx, ry = face.eye_size, face.eye_size * face.eye_open
    outer, tilt = x + side * rx, face.eye_tilt
    white = oval(x, y, rx, ry)
    white[:, 1] -= tilt * side * (white[:, 0] - x) / rx
    canvas.shape(white, (222, 218, 214))
    iris = min(ry * 1.1, rx * 0.72)
    canvas.shape(oval(x, y, iris, iris), face.eye_colour)
    canvas.shape(oval(x, y, iris * 0.5, iris * 0.5), INK)
    lid = white[18:]
    canvas.stroke(np.concatenate([lid, white[:1]]), darker(face.skin, 0.75), 0.75)
    if scene.kind == "woman":
        canvas.stroke(np.concatenate([lid, white[:1]]), INK, 1.25)
        wing = [[outer - side * 0.8, y - tilt], [outer + side * 2.0, y - tilt - 1.9]]
        canvas.stroke(np.array(wing), INK, 1.1)
    brow_y = y - face.brow_height
    weight = face.brow_weight * (0.6 if scene.kind == "woman" else 0.95)
    slope = face.brow_angle
    brow = [[x - side * 3.6, brow_y + slope * 0.8], [x, brow_y - 0.8],
            [x + side * 4.0, brow_y + 0.4 - slope * 0.8]]  # fmt: skip
    canvas.stroke(np.array(brow), darker(face.skin, 0.66), weight)


def _mouth(canvas: Canvas, face: Identity, scene: Scene) -> None:
    x, y = CENTRE_X, CENTRE_Y + face.mouth_height * face.face_height
    woman = scene.kind == "woman"
    lip = (204, 30, 66) if woman else mix(darker(face.skin, 0.3), (170, 60, 60), 0.35)
    w, full = face.mouth_width, face.lip_fullness * (1.25 if woman else 0.75)
    if scene.smile:
        w *= 1.12
        grid = np.linspace(-1, 1, 13)
        upper = np.stack([x + w * grid, y - 1.6 + 1.4 * (1 - grid**2)], 1)
        lower = np.stack([x + w * grid, y - 1.6 + (2.8 + full) * (1 - grid**2)], 1)
        canvas.shape(np.concatenate([upper - [0, full * 0.7], lower[::-1] + [0, full * 0.6]]), lip)
        canvas.shape(np.concatenate([upper, lower[::-1]]), (215, 205, 200))
    else:
        canvas.shape(oval(x, y, w, full + 0.35), lip)
        line = np.array([[x - w, y], [x, y + 0.2], [x + w, y]])
        canvas.stroke(line, darker(lip, 0.6), 0.7)


def _beard(canvas: Canvas, face: Identity, scene: Scene) -> None:
    if not scene.beard:
        return
    colour = HAIR_COLOURS[scene.hair_colour]
    y = CENTRE_Y + (face.mouth_height - 0.2) * face.face_height
    outline = _face_outline(face, scene.kind, 0.9)
    low = outline[outline[:, 1] > CENTRE_Y + 2.5]
    low = low[np.argsort(low[:, 0])]
    inner = [[CENTRE_X + face.face_width * 0.72, y + 1.5], [CENTRE_X + 4.5, y + 0.3],
             [CENTRE_X - 4.5, y + 0.3], [CENTRE_X - face.face_width * 0.72, y + 1.5]]  # fmt: skip
    canvas.shape(np.concatenate([low, np.array(inner)]), darker(colour, 0.12))


def features(canvas: Canvas, face: Identity, scene: Scene) -> None:
    """Draw nose, beard, mouth, eyes and skin marks."""
    x, y = CENTRE_X, CENTRE_Y
    tip, wide = y - 0.4 + face.nose_length, face.nose_width
    nose = [
        [x - wide, tip],
        [x - wide * 0.4, tip + 1.0],
        [x + wide * 0.4, tip + 1.0],
        [x + wide, tip],
    ]
    canvas.stroke(np.array(nose), darker(face.skin, 0.55), 0.9)
    _beard(canvas, face, scene)
    _mouth(canvas, face, scene)
    for side in (-1, 1):
        _eye(canvas, face, scene, side)
    if face.freckles:
        for dx, dy in ((0.34, 0.18), (0.5, 0.3), (0.62, 0.16), (0.46, 0.08)):
            for side in (-1, 1):
                spot = oval(x + side * dx * face.face_width, y + dy * face.face_height, 0.55, 0.55)
                canvas.shape(spot, mix(darker(face.skin, 0.4), (150, 70, 30), 0.3))
    for dx, dy in face.moles:
        spot = oval(x + dx * face.face_width, y + dy * face.face_height, 1.15, 1.15)
        canvas.shape(spot, (44, 24, 20))


def glasses(canvas: Canvas, face: Identity) -> None:
    """Draw round rims with a bridge and arms."""
    y = CENTRE_Y - 1.3
    r = min(5.0, face.eye_spacing - 0.9)
    for side in (-1, 1):
        x = CENTRE_X + side * face.eye_spacing
        rim = oval(x, y, r, 4.3)
        canvas.stroke(np.concatenate([rim, rim[:2]]), INK, 1.0)
        arm = [[x + side * r, y], [CENTRE_X + side * (face.face_width + 0.5), y - 1]]
        canvas.stroke(np.array(arm), INK, 1.0)
    gap = face.eye_spacing - r
    canvas.stroke(np.array([[CENTRE_X - gap, y], [CENTRE_X + gap, y]]), INK, 1.0)
