"""Typed config -> the training pictures and the held-out pictures."""

from collections.abc import Sequence
from pathlib import Path

from sdlora.assembly.base_model import model_source
from sdlora.assembly.class_pictures import class_folder
from sdlora.assembly.data_source import (
    file_index,
    held_out,
    picture_source,
    with_class_pictures,
    with_trigger,
)
from sdlora.assembly.family_limits import check_side
from sdlora.config.data import DataConfig, RootConfig
from sdlora.config.model import ModelConfig
from sdlora.data.captions.recipe import check_frame
from sdlora.data.pictures.buckets import bucket_sizes
from sdlora.data.pictures.cuts import Size
from sdlora.data.selection.measures import Measures
from sdlora.data.selection.picture_set import PictureSet, selected_set, whole_set
from sdlora.data.sources.file_index import FileIndex
from sdlora.data.sources.folder_source import FolderSource
from sdlora.data.sources.picture_source import PictureSource
from sdlora.models.source import check_folder, pixel_steps, resolve
from sdlora.runtime.places import located
from sdlora.runtime.progress import Progress


def training_pictures(
    data: DataConfig, model: ModelConfig, folder: Path, progress: Progress, *, is_check: bool
) -> PictureSet:
    """Find the pictures, filter them, and choose their cuts.

    Args:
        data: Source, filters and cuts.
        model: The model, which decides the possible sides.
        folder: The run folder, which may hold class pictures.
        progress: Prints notes and shows bars.
        is_check: Whether to decode every picture, and to report look-alikes.

    Raises:
        ValueError: For a folder or a setting that cannot work; faults of single files are findings.
    """
    check_frame(data.captions)
    _check_model(data, model, progress)
    sizes, step = _sizes(data, model)
    with file_index(data) as index:
        source = picture_source(data, index, progress)
        for note in index.notes:
            progress.print(f"note: {note}")
        if data.prior.mode == "class":
            source = _with_class_pictures(source, data, folder, index, progress, is_check)
        measures = Measures(source, index, progress, f"{data.background} {data.alpha}")
        return selected_set(measures, data, sizes, step, is_check=is_check)


def held_out_pictures(
    data: DataConfig, model: ModelConfig, progress: Progress
) -> PictureSet | None:
    """The folder of held-out pictures with captions; ``None`` if there is none.

    Pictures that cannot be used are named and left out.
    """
    folder = data.val_root or held_out(data, progress)
    if folder is None:
        return None
    with file_index(data) as index:
        source = FolderSource(
            [RootConfig(path=str(located(folder)))],
            caption_endings=data.captions.endings,
            default_caption=data.captions.default,
            background=data.background,
            index=index,
        )
    found = whole_set(with_trigger(source, data), data, *_sizes(data, model))
    if data.val_root is None and not found.geometry:
        return None  # pictures for the scores need no captions
    for finding in found.source.findings:
        progress.print(f"validation: left out: {finding}")
    return found if found.geometry else None


def _check_model(data: DataConfig, model: ModelConfig, progress: Progress) -> None:
    """Check that the base exists and takes such pictures; no weight is read."""
    source = model_source(model)
    base = resolve(source)
    check_folder(base, source)
    check_side(data.resolution, base, source)
    if model.architecture and not source.architecture:
        unused = "model.architecture has no effect"
        progress.print(f"note: {source.path} has its own architecture; {unused}")


def _sizes(data: DataConfig, model: ModelConfig) -> tuple[Sequence[Size], int]:
    """Bucket sizes, and the number that sides must be multiples of, in pixels."""
    source = model_source(model)
    _, step = pixel_steps(resolve(source), source)
    return bucket_sizes(data.buckets, data.resolution, step), step


def _with_class_pictures(
    source: PictureSource,
    data: DataConfig,
    folder: Path,
    index: FileIndex,
    progress: Progress,
    is_check: bool,
) -> PictureSource:
    """The source with its class pictures, unless a check runs before they are drawn."""
    others = class_folder(data.prior, folder)
    if is_check and not others.is_dir():
        progress.print(f"note: the run will draw its class pictures into {others}")
        return source
    return with_class_pictures(source, others, data, index, progress)
