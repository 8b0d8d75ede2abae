"""The configs and tokenizers of a base, as far as they are on this machine."""

from dataclasses import replace
from pathlib import Path

from sdlora.models.checkpoint_file import ENDINGS
from sdlora.models.families import description_of
from sdlora.models.source import EMBEDDED, ModelSource, missing_file, part_folder, require_hub_id
from sdlora.runtime.places import ASSETS
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
    folder: Path | None = Path(source.path).expanduser()
    if source.path.startswith(EMBEDDED):
        folder = ASSETS / source.path.removeprefix(EMBEDDED)
    elif folder is not None and folder.suffix in ENDINGS and folder.is_file():
        return None if source.config is None else known_configs(_configs_of(source))
    elif folder is not None and not folder.is_dir():
        require_hub_id(source, "model.path")
        folder = cached_folder(HubModel(source.path, CONFIGS, source.revision))
    if folder is None or missing_file(folder, source):
        return None
    own = replace(source, vae=None)
    parts = {"vae", description_of(source.family).denoiser} & set(
        description_of(source.family).parts
    )
    places = [part_folder(part, folder, own) / "config.json" for part in parts]
    return folder if all(place.is_file() for place in places) else None


def _configs_of(source: ModelSource) -> ModelSource:
    """The source of the configs of a model in one file."""
    return replace(source, path=str(source.config), config=None, revision=None)
