"""Captioned portraits of the drawn world, each a function of its seeds."""

from dataclasses import dataclass

from PIL import Image

from sdlora.world.drawing import draw
from sdlora.world.scenes import (
    ATTRIBUTE_VALUES,
    EXAMPLE_IDENTITY_SEED,
    HELD_OUT_SEEDS,
    TRAIN_SEEDS,
    Identity,
    Scene,
    attributes_named,
    caption,
    random_identity,
    random_scene,
)

__all__ = [
    "ATTRIBUTE_VALUES",
    "EXAMPLE_IDENTITY_SEED",
    "HELD_OUT_SEEDS",
    "TRAIN_SEEDS",
    "Identity",
    "Portrait",
    "Scene",
    "attributes_named",
    "caption",
    "draw",
    "portrait",
    "random_identity",
    "random_scene",
]


@dataclass(frozen=True, slots=True)
class Portrait:
    """A picture with its caption, identity and scene."""

    image: Image.Image
    caption: str
    identity_seed: int
    scene: Scene


def portrait(seed: int, identity_seed: int | None = None, size: int = 64) -> Portrait:
    """Draw a captioned portrait, deterministic.

    Args:
        seed: Chooses scene and wording, and the identity too if ``identity_seed`` is None.
            Use ``TRAIN_SEEDS`` for training, ``HELD_OUT_SEEDS`` for measurements.
        identity_seed: Fixes the person while ``seed`` varies the scene.
        size: Side of the picture in pixels.
    """
    identity_seed = seed if identity_seed is None else identity_seed
    scene = random_scene(seed)
    image = draw(random_identity(identity_seed), scene, size)
    return Portrait(image, caption(scene, seed), identity_seed, scene)
