"""Drawing of one identity in one scene with Pillow: large polygons, soft shading, then reduced."""

import numpy as np
from PIL import Image

from sdlora.world import hair, head
from sdlora.world.canvas import CENTRE_X, CENTRE_Y, Brush, Canvas, Pen, darker, lighter, oval
from sdlora.world.scenes import CLOTH_COLOURS, HAIR_COLOURS, Identity, Scene


def _body(canvas: Canvas, face: Identity, scene: Scene) -> None:
    shirt = CLOTH_COLOURS[scene.shirt]
    man = scene.kind == "man"
    chin = CENTRE_Y + face.face_height
    neck = face.face_width * (0.56 if man else 0.4)
    reach, x = (25.0 if man else 19.5), CENTRE_X
    top = 53.5 if man else 55.0
    shoulders = [[x - reach, 76], [x - reach, top + 6], [x - reach * 0.82, top + 1.6],
                 [x - neck - 1, top - 2], [x + neck + 1, top - 2], [x + reach * 0.82, top + 1.6],
                 [x + reach, top + 6], [x + reach, 76]]  # fmt: skip
    canvas.shape(np.array(shoulders), shirt, tilted=False)
    column = [[x - neck, chin - 8], [x + neck, chin - 8], [x + neck, top], [x - neck, top]]
    canvas.shape(np.array(column), darker(face.skin, 0.12))
    if man:
        collar = lighter(shirt, 0.3) if scene.shirt == "black" else darker(shirt, 0.25)
        canvas.shape(oval(x, top - 0.6, neck + 1.6, 2.6), collar, tilted=False)
        canvas.shape(oval(x, top - 1.8, neck, 2.2), darker(face.skin, 0.12), tilted=False)
    else:
        canvas.shape(oval(x, top - 1.5, neck + 5.0, 6.5), darker(face.skin, 0.06), tilted=False)


def draw(identity: Identity, scene: Scene, size: int = 64, pen: Pen | None = None) -> Image.Image:
    """Draw a head-and-shoulders portrait.

    Args:
        identity: The face.
        scene: Hair, clothes, background and pose.
        size: Side of the square picture in pixels; it is drawn larger and reduced.
        pen: The pen; None: plain colours.

    Returns:
        An RGB picture, ``size`` by ``size``, deterministic.
    """
    canvas = Canvas(scene, max(256, 2 * size), pen or Brush())
    hair_colour = HAIR_COLOURS[scene.hair_colour]
    bald = scene.hair_style == "bald"
    if not bald:
        hair.back_hair(canvas, identity, scene, hair_colour)
    _body(canvas, identity, scene)
    head.head(canvas, identity, scene)
    head.shading(canvas, identity)
    head.features(canvas, identity, scene)
    if not bald:
        hair.front_hair(canvas, identity, scene, hair_colour)
    hair.hat(canvas, identity, scene)
    if scene.glasses:
        head.glasses(canvas, identity)
    return canvas.image.resize((size, size), Image.Resampling.BOX)
