"""Typed config -> the training pictures and the held-out pictures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sdlora.assembly.base_model import model_source
from sdlora.assembly.class_pictures import class_folder, lacking_class_pictures
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
from sdlora.data.pictures.faces import require_detector
from sdlora.data.pictures.picture import ERROR
from sdlora.data.selection.measures import Measures
from sdlora.data.selection.picture_set import PictureSet, selected_set, whole_set
from sdlora.data.sources.file_index import FileIndex
from sdlora.data.sources.folder_source import FolderSource
from sdlora.data.sources.picture_source import PictureSource
from sdlora.models.base_folder import check_folder
from sdlora.models.families import description_of
from sdlora.models.known_configs import known_configs
from sdlora.models.source import pixel_steps, resolve
from sdlora.runtime.places import located
from sdlora.runtime.progress import Progress


def training_pictures(
    data: DataConfig,
    model: ModelConfig,
    folder: Path,
    progress: Progress,
    *,
    is_check: bool,
    with_faces: bool = False,
) -> PictureSet:
    """Find the pictures, filter them, and choose their cuts.

    Args:
        data: Source, filters and cuts.
        model: The model, which decides the possible sides.
        folder: The run folder, which may hold class pictures.
        progress: Prints notes and shows bars.
        is_check: Whether to decode every picture, and to report look-alikes; the model's files need
            not be here.
        with_faces: Whether a check looks for faces, where the detector can be used.

    Raises:
        ValueError: For a folder or a setting that cannot work; faults of single files are findings.
    """
    check_frame(data.captions)
    _check_model(data, model, progress, is_check=is_check)
    sizes, step = _sizes(data, model, is_check=is_check)
    with file_index(data) as index:
        source = picture_source(data, index, progress)
        for note in index.notes:
            progress.print(f"note: {note}")
        if data.prior.mode == "class":
            source = _with_class_pictures(source, data, folder, index, progress, is_check)
        measures = Measures(source, index, progress, f"{data.background} {data.alpha}")
        looks = is_check and with_faces and _can_detect(data.face_detector, progress)
        return selected_set(measures, data, sizes, step, is_check=is_check, with_faces=looks)


def held_out_pictures(
    data: DataConfig, model: ModelConfig, progress: Progress, *, is_check: bool = False
) -> PictureSet | None:
    """The folder of held-out pictures with captions; ``None`` if there is none.

    Pictures that cannot be used are named and left out. A check needs no files of the model.
    """
    folder = data.val_root or held_out(data, progress)
    if folder is None:
        return None
    with file_index(data) as index:
        source = FolderSource(
            [RootConfig(path=str(located(folder)))],
            caption_endings=data.captions.endings,
            default_caption=data.captions.default,
            from_name=data.captions.from_name,
            background=data.background,
            index=index,
        )
    sizes = _sizes(data, model, is_check=is_check)
    found = whole_set(with_trigger(source, data), data, *sizes)
    if data.val_root is None and not found.geometry:
        return None  # pictures for the scores need no captions
    for finding in found.source.findings:
        left_out = "left out: " * (finding.severity == ERROR)
        progress.print(f"validation: {left_out}{finding}")
    return found if found.geometry else None


def _check_model(
    data: DataConfig, model: ModelConfig, progress: Progress, *, is_check: bool
) -> None:
    """Check that the base exists and takes such pictures; no weight is read."""
    source = model_source(model)
    base = known_configs(source) if is_check else resolve(source)
    if base is None:
        step = description_of(source.family).side_step_px
        progress.print(
            f"note: the files of model.path={source.path} are not on this machine, and a check "
            f"fetches none: sides are multiples of {step} px, as in this family's released models; "
            "not checked: whether captions fit its tokenizer"
        )
        return
    if not is_check:
        check_folder(base, source)
    check_side(data.resolution, base, source)
    if model.architecture and not source.architecture:
        unused = "model.architecture has no effect"
        progress.print(f"note: {source.path} has its own architecture; {unused}")


def _can_detect(detector: str, progress: Progress) -> bool:
    """Whether a face detector can be used; if not, a note says why."""
    try:
        require_detector(detector)
    except ValueError as error:
        progress.print(f"note: not checked: faces, since {error}")
        return False
    return True


def _sizes(data: DataConfig, model: ModelConfig, *, is_check: bool) -> tuple[Sequence[Size], int]:
    """Bucket sizes, and the number that sides must be multiples of, in pixels."""
    source = model_source(model)
    base = known_configs(source) if is_check else resolve(source)
    if base is None:
        step = description_of(source.family).side_step_px
    else:
        _, step = pixel_steps(base, replace(source, vae=None) if is_check else source)
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
    if is_check and (lacking := lacking_class_pictures(data.prior, folder)):
        progress.print(
            f"note: the run will draw {lacking} class pictures into {others}; they are not in this "
            "check"
        )
    if is_check and not others.is_dir():
        return source
    return with_class_pictures(source, others, data, index, progress)
