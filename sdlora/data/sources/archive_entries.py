"""Entries of a zip or tar archive, read in one pass; anything but files and folders is refused."""

import gzip
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import IO, BinaryIO, Self, cast

from sdlora.data.pictures.picture import quoted
from sdlora.data.sources.archive_rules import ArchiveError, Entry

_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # the second: one without entries
_GZIP_START = b"\x1f\x8b"

_HEADER_BYTES = 2**20
"""Upper bound of the headers of one tar entry and the padding after it."""

_CHUNK_BYTES = 2**20

# bzip2 and LZMA are left out: zipfile unpacks each piece of them whole, however long that gets
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ZIP_UTF8 = 0x800
_ZIP_ENCRYPTED = 0x1 | 0x40 | 0x2000  # its bytes; strongly; the list of names too


def entries(stream: BinaryIO) -> Iterator[Entry]:
    """Read the entries of a zip, tar or gzipped tar archive, recognised by its content.

    Memory use is small whatever the archive claims, except for a zip's list of names.

    Args:
        stream: The archive, from its beginning; it can seek.

    Raises:
        ArchiveError: If it is no such archive, or an entry is a link, a device or the like, is
            encrypted, or uses an unusual compression.
        Exception: Of nearly any kind for damaged archives, from their readers.
    """
    start = stream.read(4)
    stream.seek(0)
    if start in _ZIP_STARTS:
        yield from _zip_entries(stream)
    elif start.startswith(_GZIP_START):
        with gzip.GzipFile(fileobj=stream) as plain:
            yield from _tar_entries(cast(BinaryIO, plain))
    else:
        yield from _tar_entries(stream)


def _zip_entries(stream: BinaryIO) -> Iterator[Entry]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            name = _zip_name(info)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.flag_bits & _ZIP_ENCRYPTED:
                raise ArchiveError(f"{quoted(name)} is encrypted; pack it without a password")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(_not_plain(name, is_link=kind == stat.S_IFLNK))
            if info.compress_type not in _ZIP_METHODS:
                raise ArchiveError(
                    f"{quoted(name)} is packed by method {info.compress_type}; "
                    "pack the folder again, by the usual one (deflate)"
                )
            is_folder = kind == stat.S_IFDIR or name.endswith(("/", "\\"))
            yield Entry(name, is_folder, info.file_size, partial(archive.open, info))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The whole name; macOS writes UTF-8 without the flag, and zipfile decodes it as cp437."""
    name = info.orig_filename  # the other one is cut at a zero byte
    if not info.flag_bits & _ZIP_UTF8:
        with suppress(UnicodeError):
            return name.encode("cp437").decode("utf-8")
    return name


def _tar_entries(stream: BinaryIO) -> Iterator[Entry]:
    metered = _Metered(stream)
    with _opened_tar(metered) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it keeps all that were read
            if not (member.isreg() or member.isdir()):
                raise ArchiveError(_not_plain(member.name, member.issym() or member.islnk()))
            metered.allow(member.size + _HEADER_BYTES)
            yield Entry(member.name, member.isdir(), member.size, partial(_tar_member, tar, member))
            metered.allow(_HEADER_BYTES)
    while rest := metered.read(_CHUNK_BYTES):  # a gzip's checksum is behind its last byte
        if rest.strip(b"\0"):
            raise ArchiveError("continues after its end; unpack it by hand and give the folder")


def _opened_tar(stream: "_Metered") -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|", tarinfo=_StrictTarInfo)
    except tarfile.TarError as error:
        raise ArchiveError(
            "is no .zip, .tar or .tar.gz archive; pack the folder as one of these"
        ) from error


def _tar_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None  # as it is for regular files
    return file


def _not_plain(name: str, is_link: bool) -> str:
    what = "a link" if is_link else "a device, a pipe or the like"
    return f"{quoted(name)} is {what}, which is not unpacked; pack the file itself or leave it out"


class _StrictTarInfo(tarfile.TarInfo):
    """A tar header; an invalid one is an error, where tarfile treats it as the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the mark of the end
                raise
            raise tarfile.ReadError(f"{error}, where an entry or the end should be") from error


class _Metered:
    """A stream with a limit of bytes to read, since tar headers may claim any length."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = _HEADER_BYTES

    def allow(self, num_bytes: int) -> None:
        """Allow ``num_bytes`` more bytes from here."""
        self._left = num_bytes

    def read(self, num_bytes: int) -> bytes:
        """Read like a file."""
        data = self._stream.read(num_bytes)
        self._left -= len(data)
        if self._left < 0:
            raise ArchiveError("has an entry of impossible length; pack the folder again")
        return data
