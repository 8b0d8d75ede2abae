"""Files written whole or not at all: same-folder temporary name, fsync, rename."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from sdlora.runtime.own_folder import require_own

CACHE_FOLDER = "SDLORA_CACHE"
"""Environment variable with the cache folder of all runs."""


def user_cache_folder() -> Path:
    """The default cache folder: that of the environment variable, else the user's.

    Raises:
        ValueError: If others can write in it.
    """
    if named := os.environ.get(CACHE_FOLDER):
        return require_own(Path(named).expanduser(), CACHE_FOLDER)
    return require_own(Path(platformdirs.user_cache_dir("sdlora")), "data.cache.dir")


class WriteError(OSError):
    """A file or folder that the disk does not take; the message names it, reason and remedy."""

    def __init__(self, number: int, reason: str, message: str) -> None:
        super().__init__(number, reason)
        self.message = message

    def __str__(self) -> str:
        return self.message


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def write_errors_named(path: Path) -> Iterator[None]:
    """Turn errors of the disk in the block into a ``WriteError`` that names ``path``.

    torch and safetensors have errors of their own for it, with the system's number in the text.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _number_in(str(error))
        if number in _FULL:
            remedy = "free space on that disk, or choose a folder on another"
        elif number in _CLOSED:
            remedy = "make its folder writable, or choose another"
        else:
            raise
        reason = os.strerror(number)
        message = f"{path}: cannot be written ({reason}); {remedy}"
        raise WriteError(number, reason, message) from error


def _number_in(message: str) -> int | None:
    """The system's error number: of safetensors' text, or of a file that torch could not fill."""
    if found := re.search(r"os error (\d+)", message):
        return int(found[1])
    return errno.ENOSPC if "PytorchStreamWriter failed writing" in message else None


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path that replaces ``path`` when the block ends without an error.

    The temporary file lies in the same folder (a rename across file systems is a copy, and a copy
    can be cut) and keeps the suffix, since libraries choose their format by it. On an error it is
    removed and an older ``path`` stays as it was.

    Args:
        path: The file to write. Its folder is made if missing.

    Yields:
        An empty, existing file to write to.

    Raises:
        WriteError: If the disk is full or the folder cannot be written.
    """
    path = Path(path)
    with write_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(default_mode())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinity are refused, they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_mark(path: Path) -> str:
    """A string that changes with a file: path, size and times, as in git."""
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def remove_stale_temporaries(folder: Path) -> list[Path]:
    """Remove temporary files of a killed writer in ``folder``; call it under the run lock."""
    stale = sorted(folder.glob(".writing-*"))
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is journalled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def default_mode() -> int:
    """The mode of a new file as the umask has it; safetensors closes its own files to others."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the place of ``folder`` when the block ends well.

    An older ``folder`` is moved aside and removed last. A kill between the two renames leaves it
    as ``.replaced-NAME``, from where the next call takes it back first. One process at a time.

    Yields:
        An empty folder beside ``folder``.

    Raises:
        WriteError: If the disk is full or the folder cannot be written.
    """
    with write_errors_named(folder), _replacing(folder) as temporary:
        yield temporary


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".replaced-{folder.name}")
    if aside.exists() and not folder.exists():
        aside.rename(folder)
    prefix = f".exporting-{folder.name}-"
    for stale in [aside, *folder.parent.glob(f"{prefix}*")]:
        shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=prefix))
    try:
        (temporary / "content").mkdir()  # mkdtemp's own folder is closed to other users
        yield temporary / "content"
        _sync_files(temporary)
        if folder.exists():
            folder.rename(aside)
        (temporary / "content").rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(default_mode())
            with path.open("rb+") as file:
                os.fsync(file.fileno())
