"""Typed config -> where the captioned pictures come from."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sdlora.config.data import CacheConfig, DataConfig, RootConfig
from sdlora.data.sources.archive import is_archive, unpacked
from sdlora.data.sources.file_index import FileIndex
from sdlora.data.sources.folder_source import HELD_OUT, FolderSource
from sdlora.data.sources.hub_set import HubSet
from sdlora.data.sources.hub_source import HubSource
from sdlora.data.sources.picture_source import PictureSource, WithClassPictures
from sdlora.data.sources.portrait_source import PortraitSource
from sdlora.data.sources.streamed_source import Head, StreamedSource
from sdlora.runtime.files import user_cache_folder
from sdlora.runtime.places import located
from sdlora.runtime.progress import Progress

STREAM_HEAD = 64
"""So many rows of a streamed set stand for it in the data sheet and among the references."""


def cache_folder(config: CacheConfig) -> Path:
    """Where the cache lies: the config's folder, else the environment's, else the user's."""
    return Path(config.dir).expanduser() if config.dir else user_cache_folder()


def file_index(data: DataConfig) -> FileIndex:
    """What earlier runs learnt of the files."""
    in_memory = data.cache.mode == "memory"
    return FileIndex(None if in_memory else cache_folder(data.cache) / "files.sqlite")


def picture_source(data: DataConfig, index: FileIndex, progress: Progress) -> PictureSource:
    """The captioned pictures as they lie there."""
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
        nested=data.nested,
        background=data.background,
        alpha_is_mask=data.alpha == "mask",
        index=index,
        progress=progress,
    )


def with_class_pictures(
    source: PictureSource, folder: Path, data: DataConfig, index: FileIndex, progress: Progress
) -> PictureSource:
    """The source and, for prior preservation, the class pictures of a folder, which train along."""
    others = FolderSource(
        [RootConfig(path=str(folder), class_caption=data.prior.prompt)],
        caption_endings=data.captions.endings,
        index=index,
        progress=progress,
    )
    both = WithClassPictures(source, others, data.prior.weight)
    own, of_class = both.times
    progress.print(
        f"{len(others.pictures)} class pictures train along; an epoch shows yours {own} time(s) "
        f"and those {of_class} time(s)"
    )
    return both


def is_streamed(data: DataConfig) -> bool:
    """Whether rows are read as they come."""
    return data.source == "hub" and data.hub.streaming


def streamed_source(data: DataConfig, seed: int, shuffle_buffer: int) -> StreamedSource:
    """The rows of a streamed set, shuffled by ``seed``; a buffer of 1 reads them as they lie."""
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
    folders = (Path(root.path) / HELD_OUT for root in _roots(data, progress))
    return next((str(folder) for folder in folders if folder.is_dir()), None)


def hub_set(data: DataConfig) -> HubSet:
    """Which rows of which Hugging Face set."""
    assert data.root is not None, "the schema requires it"
    return HubSet(path=data.root, config=data.hub, default_caption=data.captions.default)


def _roots(data: DataConfig, progress: Progress) -> Iterator[RootConfig]:
    """The folders to read; an archive is unpacked into the cache."""
    assert data.roots or data.root is not None, "the schema requires it"
    for root in data.roots or [RootConfig(path=str(data.root))]:
        path = located(root.path)
        if is_archive(path):
            path = unpacked(path, cache_folder(data.cache), progress)
        yield replace(root, path=str(path))
