"""The typed schema of the key ``data.filters``; values live in ``conf/data``, checks live here."""

import math
from dataclasses import dataclass

from omegaconf import MISSING

from sdlora.config.rules import require

MAX_HASH_DISTANCE = 16
"""Hashes of unrelated pictures differ in about 32 of 64 bits, few in fewer than 16."""


@dataclass(slots=True, kw_only=True)
class FiltersConfig:
    """Pictures that are left out on purpose; ``null`` and ``false`` are off."""

    min_width: int | None = None
    """Narrower pictures are left out; in pixels of the upright picture, >= 1."""
    min_height: int | None = None
    """Lower pictures are left out; in pixels, >= 1."""
    min_area_px: int | None = None
    """Pictures of fewer pixels are left out; >= 1."""
    min_aspect: float | None = None
    """Smallest width / height; > 0."""
    max_aspect: float | None = None
    """Greatest width / height; > 0."""
    max_file_mib: float | None = None
    """Larger files are left out; in MiB, > 0."""
    exact_duplicates: bool = MISSING
    """Keep one file, the first by name, of those with the same bytes."""
    near_duplicates: int | None = None
    """Keep the largest of pictures whose 64-bit perceptual hashes differ in at most this many bits;
    0 to 16."""
    min_sharpness: float | None = None
    """Smallest variance of the Laplacian, in squared grey levels, at 512 px; blur is below 100."""

    def __post_init__(self) -> None:
        for key in ("min_width", "min_height", "min_area_px"):
            value = getattr(self, key)
            self._require(value is None or value >= 1, key, "must be at least 1")
        for key in ("min_aspect", "max_aspect", "max_file_mib", "min_sharpness"):
            value = getattr(self, key)
            is_positive = value is None or (math.isfinite(value) and value > 0)
            self._require(is_positive, key, "must be a number above 0")
        least, most = self.min_aspect, self.max_aspect
        self._require(
            least is None or most is None or least <= most,
            "min_aspect",
            f"must not exceed data.filters.max_aspect={most}",
        )
        self._require(
            self.near_duplicates is None or 0 <= self.near_duplicates <= MAX_HASH_DISTANCE,
            "near_duplicates",
            f"must be between 0 and {MAX_HASH_DISTANCE}; 4 finds copies that were resized or saved "
            "again, much larger values find unrelated pictures",
        )

    def _require(self, ok: bool, key: str, remedy: str) -> None:
        require(ok, f"data.filters.{key}", getattr(self, key), remedy)
