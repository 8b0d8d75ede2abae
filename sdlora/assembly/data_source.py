"""Typed config -> the source of the captioned pictures."""

from collections.abc import Iterator
from dataclasses import replace
from glob import glob, has_magic
from pathlib import Path

from sdlora.config.data import CacheConfig, DataConfig, RootConfig
from sdlora.data.pictures.picture_formats import PICTURE_SUFFIXES
from sdlora.data.sources.archive import is_archive, unpacked
from sdlora.data.sources.file_index import FileIndex
from sdlora.data.sources.folder_names import held_out_folder
from sdlora.data.sources.folder_source import FolderSource
from sdlora.data.sources.hub_set import HubSet
from sdlora.data.sources.hub_source import HubSource
from sdlora.data.sources.picture_source import (
    DataError,
    PictureSource,
    WithClassPictures,
    WithTriggerWord,
)
from sdlora.data.sources.portrait_source import PortraitSource
from sdlora.data.sources.streamed_source import Head, StreamedSource
from sdlora.runtime.files import user_cache_folder
from sdlora.runtime.own_folder import require_own
from sdlora.runtime.places import located
from sdlora.runtime.progress import Progress

STREAM_HEAD = 64
"""Rows of a streamed set that represent it in the data sheet and among the references."""


def cache_folder(config: CacheConfig) -> Path:
    """The cache folder: the config's, else the environment's, else the user's.

    Raises:
        ValueError: If others can write in it.
    """
    if config.dir:
        return require_own(Path(config.dir).expanduser(), "data.cache.dir")
    return user_cache_folder()


def file_index(data: DataConfig) -> FileIndex:
    """The index of files in the cache."""
    in_memory = data.cache.mode == "memory"
    return FileIndex(None if in_memory else cache_folder(data.cache) / "files.sqlite")


def picture_source(data: DataConfig, index: FileIndex, progress: Progress) -> PictureSource:
    """The source of all captioned pictures, with the trigger word in their captions."""
    return with_trigger(_source(data, index, progress), data)


def with_trigger(source: PictureSource, data: DataConfig) -> PictureSource:
    """The source with ``data.trigger_word`` in every caption, if there is one."""
    if data.trigger_word is None:
        return source
    return WithTriggerWord(source, data.trigger_word, [data.captions.prefix, data.captions.suffix])


def _source(data: DataConfig, index: FileIndex, progress: Progress) -> PictureSource:
    if data.source == "portraits":
        return PortraitSource(data.num_pictures, size=data.resolution)
    if is_streamed(data):
        return Head(streamed_source(data, seed=0, shuffle_buffer=1), STREAM_HEAD)
    if data.source == "hub":
        return HubSource(
            hub_set(data),
            progress,
            background=data.background,
            alpha_is_mask=data.alpha == "mask",
        )
    return FolderSource(
        list(_roots(data, progress)),
        caption_endings=data.captions.endings,
        default_caption=data.captions.default,
        from_name=data.captions.from_name,
        nested=data.nested,
        background=data.background,
        alpha_is_mask=data.alpha == "mask",
        index=index,
        progress=progress,
    )


def with_class_pictures(
    source: PictureSource, folder: Path, data: DataConfig, index: FileIndex, progress: Progress
) -> PictureSource:
    """The source together with the class pictures of a folder, for prior preservation."""
    others = FolderSource(
        [RootConfig(path=str(folder), class_caption=data.prior.prompt)],
        caption_endings=data.captions.endings,
        index=index,
        progress=progress,
    )
    both = WithClassPictures(source, others, data.prior.weight)
    own, of_class = both.times
    progress.print(
        f"training includes {len(others.pictures)} class pictures; an epoch shows yours {own} "
        f"time(s) and those {of_class} time(s)"
    )
    return both


def is_streamed(data: DataConfig) -> bool:
    """Whether rows are streamed."""
    return data.source == "hub" and data.hub.streaming


def streamed_source(data: DataConfig, seed: int, shuffle_buffer: int) -> StreamedSource:
    """The rows of a streamed set, shuffled by ``seed``; a buffer of 1 keeps the stored order."""
    return StreamedSource(
        hub_set(data),
        seed=seed,
        shuffle_buffer=shuffle_buffer,
        on_error=data.on_error,
        background=data.background,
    )


def held_out(data: DataConfig, progress: Progress) -> str | None:
    """The folder ``held_out`` in one of the roots, if there is one."""
    if data.source != "folder":
        return None
    folders = (held_out_folder(Path(root.path)) for root in _roots(data, progress))
    return next((str(folder) for folder in folders if folder is not None), None)


def held_out_fraction(
    data: DataConfig, references: str | None, hw10: bool, folder: str | None, automatic: float
) -> float:
    """The share of the pictures that is held out of training.

    Args:
        data: ``val_fraction``; what it holds out by itself depends on the other pictures.
        references: ``evaluation.references``.
        hw10: ``evaluation.hw10``, which compares with all pictures.
        folder: The folder ``held_out`` in one of the roots, if there is one.
        automatic: The fraction that holds out a tenth of the pictures found.
    """
    if data.val_fraction is not None:
        return data.val_fraction
    has_others = any(each is not None for each in (data.val_root, references, folder))
    return 0.0 if has_others or hw10 or is_streamed(data) else automatic


def hub_set(data: DataConfig) -> HubSet:
    """The Hugging Face data set of the config."""
    assert data.root is not None, "the schema requires it"
    return HubSet(path=data.root, config=data.hub, default_caption=data.captions.default)


def _roots(data: DataConfig, progress: Progress) -> Iterator[RootConfig]:
    """The folders to read; archives are unpacked into the cache, and patterns give all they match.

    Raises:
        DataError: If a pattern matches no folder and no archive, or pictures.
    """
    assert data.roots or data.root is not None, "the schema requires it"
    for root in data.roots or [RootConfig(path=str(data.root))]:
        for path in _matching(located(root.path)):
            folder = path
            if is_archive(path):
                folder = unpacked(path, cache_folder(data.cache), progress)
            yield replace(root, path=str(folder))


def _matching(path: Path) -> list[Path]:
    """The folders and archives that a path with ``*``, ``?`` or ``[...]`` matches, by name."""
    if path.exists() or not has_magic(str(path)):
        return [path]
    matches = sorted(map(Path, glob(str(path), recursive=True)))
    pictures = [each for each in matches if each.suffix.casefold() in PICTURE_SUFFIXES]
    found = [each for each in matches if each.is_dir() or is_archive(each)]
    if found and not pictures:
        return found
    what = f"matches the picture {pictures[0]}" if pictures else "matches no folder"
    raise DataError(f"data.root={path}: {what}; give a pattern of folders, such as photos/*")
