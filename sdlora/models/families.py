"""Model families by name: built-in ones, and those of installed packages."""

from importlib.metadata import entry_points

from sdlora.config.rules import ConfigError, require_choice
from sdlora.models.ddpm import DDPM
from sdlora.models.description import FamilyDescription, PartNames
from sdlora.models.flux2_klein import FLUX2_KLEIN
from sdlora.models.kolors import KOLORS
from sdlora.models.sd import SD
from sdlora.models.sdxl import SDXL
from sdlora.models.z_image import Z_IMAGE

FAMILIES = {each.name: each for each in (SD, SDXL, KOLORS, Z_IMAGE, FLUX2_KLEIN, DDPM)}
"""``model.family`` -> the description of a built-in family."""

ENTRY_POINTS = "sdlora.models"
"""Entry point group of packages with a ``FamilyDescription`` of their own."""


def families() -> dict[str, FamilyDescription]:
    """All families by name.

    Raises:
        ConfigError: If an entry point of a package is no description.
    """
    found = dict(FAMILIES)
    for entry in entry_points(group=ENTRY_POINTS):
        added = entry.load()
        if not isinstance(added, FamilyDescription):
            raise ConfigError(
                f"model.family={entry.name}: the installed package that adds it gives a "
                f"{type(added).__name__} under {ENTRY_POINTS}, not a FamilyDescription; update it"
            )
        found[added.name] = added
    return found


def description_of(name: str) -> FamilyDescription:
    """The description of a family.

    Raises:
        ConfigError: If there is none of this name; it lists the known ones.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    known = families()
    require_choice("model.family", name, tuple(sorted(known)))
    return known[name]


def part_names() -> dict[str, PartNames]:
    """The names in LoRA files of the trainable parts of all families, denoisers first.

    For files of an unknown family. If two families have a part of one name, a built-in one wins.
    """
    every = reversed(families().values())
    names = {part: names for each in every for part, names in each.trainable.items()}
    return dict(sorted(names.items(), key=lambda item: item[1].is_clip))
