"""Reader of headers, hashes and captions, from the index or from the files."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from rich.progress import TaskID

from sdlora.data.captions.caption_text import CaptionError, read_caption_text
from sdlora.data.pictures.decode import read_header
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.sources.file_index import FileIndex, FileKey, PictureFacts
from sdlora.runtime.progress import Progress

_MANY_FILES = 200  # fewer are read before a bar can be looked at
_TASK_FILES = 16  # a task of one small file costs more than the file
_MAX_THREADS = 8

Fact = TypeVar("Fact")


class Fault(NamedTuple):
    """Why a file cannot be used."""

    kind: str
    reason: str


class FileReader:
    """Facts of files; unknown files are read and added to the index.

    Args:
        index: Facts of earlier runs, if any.
        progress: Shows a bar when many files are new.
        total: How many pictures there are, for the bar.
    """

    def __init__(self, index: FileIndex | None, progress: Progress | None, total: int) -> None:
        self._index = index
        self._progress = progress
        self._total = total
        self._num_read = 0
        self._bar: TaskID | None = None
        self._pool = ThreadPoolExecutor(max_workers=min(_MAX_THREADS, os.cpu_count() or 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._progress is not None and self._bar is not None:
            self._progress.remove(self._bar)

    def pictures(self, files: Sequence[FileKey]) -> dict[str, PictureFacts | Fault]:
        """Path -> header and hash, or fault; pictures are not decoded."""
        known = self._index.pictures(files) if self._index else {}
        new, read_ns = self._read(files, known, _picture)
        if self._index:
            self._index.store_pictures(_sound(new), read_ns)
        return {**known, **{file.path: facts for file, facts in new.items()}}

    def captions(self, files: Sequence[FileKey]) -> dict[str, str | Fault]:
        """Path -> text of a caption file."""
        known = self._index.captions(files) if self._index else {}
        new, read_ns = self._read(files, known, _caption)
        if self._index:
            self._index.store_captions(_sound(new), read_ns)
        return {**known, **{file.path: text for file, text in new.items()}}

    def say(self, num_done: int) -> None:
        """Update the bar, if there is one."""
        if self._progress is None or self._num_read <= _MANY_FILES:
            return
        if self._bar is None:
            self._bar = self._progress.add("reading pictures", self._total)
        self._progress.update(self._bar, num_done)

    def _read(
        self,
        files: Sequence[FileKey],
        known: dict[str, Fact],
        read: Callable[[FileKey], Fact | Fault],
    ) -> tuple[dict[FileKey, Fact | Fault], int]:
        """Facts of the unknown files, and when reading began."""
        read_ns = time.time_ns()
        new = [file for file in files if file.path not in known]
        self._num_read += len(new)
        parts = [new[start : start + _TASK_FILES] for start in range(0, len(new), _TASK_FILES)]
        results = self._pool.map(lambda part: [read(file) for file in part], parts)
        facts = (fact for part in results for fact in part)
        return dict(zip(new, facts, strict=True)), read_ns


def _picture(file: FileKey) -> PictureFacts | Fault:
    try:
        with open(file.path, "rb") as stream:
            header = read_header(stream)
            stream.seek(0)
            content = hashlib.file_digest(stream, "sha256").hexdigest()
    except PictureError as error:
        return Fault("unreadable", str(error))
    except OSError as error:
        return Fault("unreadable", f"{error.strerror or error}; check the file")
    width, height = header.size
    return PictureFacts(content, width, height, header.has_alpha, header.is_animated)


def _caption(file: FileKey) -> str | Fault:
    try:
        return read_caption_text(Path(file.path))
    except CaptionError as error:
        return Fault("bad_caption", str(error))
    except OSError as error:
        return Fault("unreadable", f"{error.strerror or error}; check the file")


def _sound(facts: dict[FileKey, Fact | Fault]) -> dict[FileKey, Fact]:
    return {file: fact for file, fact in facts.items() if not isinstance(fact, Fault)}
