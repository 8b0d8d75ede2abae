"""Unpacking of an archive of captioned pictures into the cache, once for each content."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sdlora.data.pictures.picture import quoted
from sdlora.data.sources.archive_entries import entries
from sdlora.data.sources.archive_rules import ArchiveError, Budget, Entry, Limits, Names, safe_parts
from sdlora.data.sources.picture_source import DataError
from sdlora.runtime.files import remove_stale_temporaries, write_json
from sdlora.runtime.progress import Progress

_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
_FOLDER = "archives"  # in the cache
_TEMPORARY = ".unpacking-"
_NAME_DIGITS = 32
_NUM_FILES = "num_files"
_CHUNK_BYTES = 2**20
_MIB = 2**20

_SYNCS_ALL = hasattr(os, "sync")
"""Whether one call syncs all files to the disk (not on Windows); one for each is slow."""


def is_archive(path: Path) -> bool:
    """Whether a path is a file with the ending of an archive."""
    return path.is_file() and path.name.casefold().endswith(_ENDINGS)


def unpacked(
    path: Path, cache: Path, progress: Progress | None = None, limits: Limits | None = None
) -> Path:
    """Unpack an archive, or find where it was unpacked before.

    Only plain files and folders with names below the archive's root are unpacked. They lie in
    ``archives``, in a folder named by the archive's content, which appears when it is whole: a
    killed process leaves nothing that looks like it. The archive is hashed again only if its path,
    size or times have changed.

    Args:
        path: A zip, tar or gzipped tar, whatever its ending.
        cache: Folder of the cache, made if missing.
        progress: Shows a bar.
        limits: Limits against zip bombs; by default those of :class:`Limits`.

    Returns:
        The folder of its files; if all of them lie in one top folder, that one.

    Raises:
        DataError: If the archive cannot be read, is damaged or too large, or holds an entry that is
            refused; the message names archive, entry and remedy. No file of it is left on the disk.
    """
    progress = progress or Progress(enabled=False)
    archives = cache / _FOLDER
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); replace it") from error
    with stream:
        try:
            return _top(_folder(path, stream, archives, progress, limits or Limits()))
        except ArchiveError as error:
            raise DataError(f"{path}: {error}") from error
        except OSError as error:
            what = f"{error.strerror or error}: {error.filename or archives}"
            raise DataError(
                f"{path}: cannot be unpacked ({what}); fix that, or set data.cache.dir"
            ) from error


def _folder(
    path: Path, stream: BufferedReader, archives: Path, progress: Progress, limits: Limits
) -> Path:
    """The folder of the unpacked archive, unpacked now if necessary."""
    identity = _identity(path, stream)
    for note in sorted(archives.glob("*.json")):
        if identity.items() <= _read(note).items() and _is_whole(note.with_suffix("")):
            return note.with_suffix("")
    with progress.working(f"hashing {path.name}"):
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = archives / content[:_NAME_DIGITS]
    with _locked(archives, progress):
        _remove_abandoned(archives)
        if _is_whole(folder):
            write_json(_note(folder), _read(_note(folder)) | identity)
            return folder
        if folder.exists():
            progress.print(f"{folder} lacks files or the note of them; {path} is unpacked again")
            shutil.rmtree(folder)
        temporary = archives / f"{_TEMPORARY}{folder.name}"
        try:
            num_files = _unpack(stream, temporary, progress, limits)
            if _identity(path, stream) != identity:
                raise ArchiveError("was changed while it was read; start again")
            if _SYNCS_ALL:
                os.sync()
            write_json(_note(folder), identity | {_NUM_FILES: num_files})
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _identity(path: Path, stream: BufferedReader) -> dict[str, Any]:
    """Identity of an archive without reading it: path, size and times."""
    status = os.fstat(stream.fileno())
    return {
        "archive": str(path.resolve()),
        "num_bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,  # a copy may keep the time of modification
    }


def _note(folder: Path) -> Path:
    """The note beside an unpacked archive: its identity and its number of files."""
    return folder.with_suffix(".json")


def _read(note: Path) -> dict[str, Any]:
    """A note; empty if it cannot be read."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_whole(folder: Path) -> bool:
    """Whether a folder still has all unpacked files; cache cleaners remove single ones."""
    wanted = _read(_note(folder)).get(_NUM_FILES)
    if not isinstance(wanted, int) or not folder.is_dir():
        return False
    return sum(len(files) for _, _, files in os.walk(folder)) >= wanted


@contextmanager
def _locked(archives: Path, progress: Progress) -> Iterator[None]:
    """Let one process at a time unpack; the operating system frees the lock of a killed one."""
    archives.mkdir(parents=True, exist_ok=True)
    path = archives / ".lock"
    path.touch()  # an error if that is not possible; filelock may wait instead
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        with progress.working("waiting for another process that unpacks an archive"):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _remove_abandoned(archives: Path) -> None:
    """Remove leftovers of killed processes; under the lock."""
    for folder in archives.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(folder)
    remove_stale_temporaries(archives)


def _unpack(stream: BufferedReader, target: Path, progress: Progress, limits: Limits) -> int:
    """Write all files of an archive below ``target``, and return their number."""
    archive_bytes = os.fstat(stream.fileno()).st_size
    names, budget = Names(), Budget(limits, archive_bytes)
    stream.seek(0)
    target.mkdir()
    bar = progress.add(f"unpacking {Path(stream.name).name}, MiB", max(1, archive_bytes // _MIB))
    try:
        for entry in entries(stream):
            budget.add_entry(entry)
            parts = safe_parts(entry.name)
            names.add(entry, parts)
            if entry.is_folder:
                target.joinpath(*parts).mkdir(parents=True, exist_ok=True)
            else:
                _copy(entry, target.joinpath(*parts), budget)
            progress.update(bar, stream.tell() // _MIB, f"{names.num_files} files")
    except ArchiveError:
        raise
    except Exception as error:  # the readers of archives raise nearly anything on damaged ones
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not a reader's
            raise
        reason = str(error) or type(error).__name__
        raise ArchiveError(f"is damaged ({reason}); download or pack it again") from error
    finally:
        progress.remove(bar)
    if not names.num_files:
        raise ArchiveError("holds no files; pack the folder of pictures")
    return names.num_files


def _copy(entry: Entry, path: Path, budget: Budget) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    num_bytes = 0
    with entry.open() as source, path.open("xb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            num_bytes += len(chunk)
            budget.add_bytes(entry, len(chunk))
            file.write(chunk)
        if not _SYNCS_ALL:
            file.flush()
            os.fsync(file.fileno())
    if num_bytes != entry.num_bytes:
        raise ArchiveError(
            f"is damaged ({quoted(entry.name)} has {num_bytes} bytes, not {entry.num_bytes}); "
            "download or pack it again"
        )


def _top(folder: Path) -> Path:
    """The single top folder, if there is one; macOS adds a folder ``__MACOSX``."""
    seen = [
        path
        for path in folder.iterdir()
        if path.name != "__MACOSX" and not path.name.startswith(".")
    ]
    return seen[0] if len(seen) == 1 and seen[0].is_dir() else folder
