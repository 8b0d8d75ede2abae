"""Shards of the tensor store, safetensors files in which any altered byte is found; by entry."""

import errno
import hashlib
import json
import os
import re
import secrets
import time
import zlib
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sdlora.runtime.files import write_bytes

SHARD_NAME = re.compile(r"v1-[0-9a-f]{16}-([0-9a-f]{32})\.safetensors")
"""Version of the format, a random part (no two writers meet), and the hash of the header."""

HEADER_DAMAGED = "the header is damaged"
CUT_OFF = "cut off"
ALTERED = "the content does not match its checksum"

_ABANDONED_S = 24 * 3600
"""Writing a shard takes seconds."""

_MANY_HANDLES = 2048


class ShardError(ValueError):
    """A damaged shard or tensor; the message is one of three reasons."""


class StoreError(KeyError):
    """An entry that is missing or damaged; the message names it and the remedy."""

    def __str__(self) -> str:
        return str(self.args[0])


class Shard:
    """Tensors in one file, by key, each checked when it is first read.

    The file's name holds the hash of its header, and the header the checksums of its tensors: so
    altered keys, shapes, dtypes and values are refused. A process that gets a pickled shard opens
    the file itself.

    Args:
        path: A file named as ``SHARD_NAME`` says. Only its header is read now.

    Attributes:
        path: The file.
        keys: Keys of all its tensors, sorted.
        file_bytes: Size of the file.

    Raises:
        ShardError: If the header is damaged or the file cut off.
        OSError: If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        layout, self.file_bytes = _layout(path)
        checksums = bytes.fromhex(layout.pop("__metadata__")["checksums"])
        self.keys = sorted(layout)
        spans = np.array([layout[key]["data_offsets"] for key in self.keys], dtype=np.int64)
        self._sizes = spans[:, 1] - spans[:, 0]
        self._checksums = np.frombuffer(checksums, dtype=">u4")
        self._proved = bytearray(len(self.keys))
        self._file: Any = None
        self._backend = "mmap"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def num_bytes(self, key: str) -> int:
        """Size of one tensor."""
        return int(self._sizes[bisect_left(self.keys, key)])

    def open(self, backend: str | None = None) -> None:
        """Open the file, so that it can be read even if it is removed; no effect if it is open.

        Args:
            backend: Of safetensors: ``pread`` costs a file handle; ``mmap`` none, but reads far
                more than needed where the system reads ahead. ``None``: unchanged.

        Raises:
            OSError: If it cannot be read, as when it was removed since its header was.
        """
        if self._file is None:
            self._backend = backend or self._backend
            self._file = _safe_open(self.path, self._backend)

    def close(self) -> None:
        """Close the file."""
        self._file = None

    def tensor(self, key: str) -> Tensor:
        """One of ``keys``.

        Raises:
            ShardError: If it was altered.
            OSError: If the file cannot be read.
        """
        self.open()
        return self._proven(self._file, key)

    def sound(self, keys: list[str]) -> dict[str, Tensor]:
        """The unaltered tensors of ``keys``, as views of the mapped file.

        Raises:
            OSError: If the file cannot be read.
        """
        file = _safe_open(self.path, "mmap")
        found = {}
        for key in keys:
            with suppress(ShardError):
                found[key] = self._proven(file, key)
        return found

    def _proven(self, file: Any, key: str) -> Tensor:
        number = bisect_left(self.keys, key)
        try:
            tensor: Tensor = file.get_tensor(key)
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from None
        if not self._proved[number]:
            if _checksum(tensor) != self._checksums[number]:
                raise ShardError(ALTERED)
            self._proved[number] = True
        return tensor


def write_shard(folder: Path, tensors: Mapping[str, Tensor]) -> Shard:
    """Write a new shard, whole or not at all.

    Args:
        folder: Made if missing.
        tensors: By key; at least one; on the CPU, contiguous, no two of one storage.

    Raises:
        OSError: If the disk is full or the folder not writable; no file is left then.
    """
    checksums = "".join(f"{_checksum(tensors[key]):08x}" for key in sorted(tensors))
    data = save(dict(tensors), metadata={"checksums": checksums})
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    path = folder / f"v1-{secrets.token_hex(8)}-{_hash(header)}.safetensors"
    write_bytes(path, data)
    return Shard(path)


def repair(shard: Shard) -> Shard | None:
    """Replace a damaged shard by a new one that holds only its intact tensors.

    Returns:
        The new one; ``None`` if no tensor is intact.

    Raises:
        OSError: If the new one cannot be written or the old one not removed.
    """
    sound = shard.sound(shard.keys)
    renewed = write_shard(shard.path.parent, sound) if sound else None
    del sound
    if os.name == "nt":  # Windows removes no file that is mapped
        shard.close()
    shard.path.unlink(missing_ok=True)
    return renewed


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files that are too old to belong to a running writer."""
    for path in folder.glob(".writing-*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


def _safe_open(path: Path, backend: str) -> Any:
    try:
        return safe_open(path, framework="pt", backend=backend)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from None


def _layout(path: Path) -> tuple[dict[str, Any], int]:
    """The header (safetensors: 8 bytes of length, then JSON) and the file's size."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, size))
    named = SHARD_NAME.fullmatch(path.name)
    if named is None or _hash(header) != named[1]:
        raise ShardError(HEADER_DAMAGED)
    layout = json.loads(header)
    end = max(entry["data_offsets"][1] for key, entry in layout.items() if key != "__metadata__")
    if size != 8 + length + end:
        raise ShardError(CUT_OFF)
    return layout, size


def _hash(header: bytes) -> str:
    return hashlib.blake2b(header, digest_size=16).hexdigest()


def _checksum(tensor: Tensor) -> int:
    """CRC-32 of the values; at 4 GB/s it costs less than reading them."""
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)


def last_use(shard: Shard) -> tuple[int, str]:
    """When a shard was last used, in nanoseconds, and its file's name; to sort by."""
    try:
        return shard.path.stat().st_mtime_ns, shard.path.name
    except OSError:
        return 0, shard.path.name


def spare_handles() -> int:
    """Number of shards that may be open: a quarter of the process's limit of open files."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return _MANY_HANDLES
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MANY_HANDLES if limit == resource.RLIM_INFINITY else limit // 4
