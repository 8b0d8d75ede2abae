"""Pictures directly in a folder, for scores: no captions, no sub-folders."""

from pathlib import Path

from sdlora.data.pictures.picture_formats import PICTURE_SUFFIXES
from sdlora.data.sources.companions import is_mask
from sdlora.data.sources.folder_names import is_hidden


def pictures_directly_in(folder: Path) -> list[Path]:
    """The picture files of a folder by name, without masks and hidden files."""
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.casefold() in PICTURE_SUFFIXES and not is_hidden(path.name)
    ]
    stems = {path.stem for path in paths}
    return [path for path in paths if not is_mask(path.stem, stems)]
