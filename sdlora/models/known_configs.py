"""Configs and tokenizers of a base that are on this machine; nothing is fetched or converted."""

from dataclasses import replace
from pathlib import Path

from sdlora.models.checkpoint_file import ENDINGS
from sdlora.models.families import description_of
from sdlora.models.source import (
    ModelError,
    ModelSource,
    missing_file,
    part_folder,
    require_hub_id,
)
from sdlora.runtime.places import ASSETS, EMBEDDED
from sdlora.weights.hub_models import CONFIGS, HubModel, cached_folder


def known_configs(source: ModelSource) -> Path | None:
    """The local folder with a base's configs and tokenizers; nothing is fetched or converted.

    Args:
        source: Location of the model; ``vae`` has no effect.

    Returns:
        The folder, in which all of them are; ``None`` if they would have to be fetched first.

    Raises:
        ModelError: If the location is neither on this machine nor a Hub id.
    """
    folder = _folder(source)
    if folder is None or missing_file(folder, source):
        return None
    own, description = replace(source, vae=None), description_of(source.family)
    parts = {"vae", description.denoiser} & set(description.parts)
    places = [part_folder(part, folder, own) / "config.json" for part in parts]
    return folder if all(place.is_file() for place in places) else None


def _folder(source: ModelSource) -> Path | None:
    """The base's folder, or that of ``model.config`` for a base in one file."""
    path = Path(source.path).expanduser()
    if source.path.startswith(EMBEDDED):
        return ASSETS / source.path.removeprefix(EMBEDDED)
    if path.is_dir():
        return path
    if path.suffix not in ENDINGS:
        require_hub_id(source, "model.path")
        return cached_folder(HubModel(source.path, CONFIGS, source.revision))
    if not path.is_file():
        raise ModelError(f"model.path={source.path}: no such file")
    return None if source.config is None else known_configs(_configs_of(source))


def _configs_of(source: ModelSource) -> ModelSource:
    """The source of the configs of a model in one file."""
    return replace(source, path=str(source.config), config=None, revision=None)
