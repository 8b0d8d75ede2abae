"""Source of portraits of the drawn world, drawn on demand."""

import hashlib
from collections.abc import Sequence

from PIL import Image

from sdlora.data.pictures.picture import Finding, Picture
from sdlora.data.sources.picture_source import record
from sdlora.world.portraits import caption, portrait, random_scene


class PortraitSource:
    """Portraits of the drawn world, drawn on demand.

    Args:
        num_pictures: Number of portraits.
        first_seed: The portraits' seeds are ``first_seed``, ``first_seed + 1``, ...
        identity_seed: One person in many scenes; ``None`` for a new person in each.
        size: Side in pixels.
    """

    def __init__(
        self,
        num_pictures: int,
        first_seed: int = 0,
        identity_seed: int | None = None,
        size: int = 64,
    ) -> None:
        self._seeds = range(first_seed, first_seed + num_pictures)
        self._identity_seed = identity_seed
        self._size = size
        # the first drawing stands for the drawing code: another one makes other pictures
        drawn = hashlib.sha256(self.image(0).tobytes()).hexdigest()
        self.pictures: Sequence[Picture] = [
            Picture(
                name=f"portrait-{seed:07d}",
                size=(size, size),
                text=caption(random_scene(seed), seed),
                content=_hash(str(seed), str(identity_seed), str(size), drawn),
            )
            for seed in self._seeds
        ]
        self.findings: Sequence[Finding] = ()
        self.notes: Sequence[str] = ()

    def image(self, index: int) -> Image.Image:
        """Draw portrait ``index``, mode ``RGB``."""
        return portrait(self._seeds[index], self._identity_seed, self._size).image.convert("RGB")

    def mask(self, index: int) -> Image.Image | None:
        """Portraits have no mask."""
        return None


def _hash(*fields: str) -> str:
    return hashlib.sha256(record(*fields)).hexdigest()
