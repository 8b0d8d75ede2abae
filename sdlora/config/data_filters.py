"""The typed schema of the key ``data.filters``; values live in ``conf/data``, checks live here."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass(slots=True, kw_only=True)
class FiltersConfig:
    min_width: int | None = None
    """Narrower pictures are left out; in pixels, as all of these ``null`` is off."""
    min_height: int | None = None
    """Lower pictures are left out; in pixels."""
    min_area_px: int | None = None
    """Pictures of fewer pixels are left out."""
    min_aspect: float | None = None
    """Smallest width / height."""
    max_aspect: float | None = None
    """Greatest width / height."""
    max_file_mib: float | None = None
    """Larger files are left out."""
    exact_duplicates: bool = MISSING
    """Leave out all but one of files with the same bytes."""
    near_duplicates: int | None = None
    """Leave out pictures whose 64-bit perceptual hash differs from another's in so few bits."""
    min_sharpness: float | None = None
    """Smallest variance of the Laplacian, in squared grey levels, at 512 px; blur is below 100."""
