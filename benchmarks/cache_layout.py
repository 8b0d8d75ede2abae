"""``python -m benchmarks.cache_layout``: the tensor store's shards against one file an entry.

Latents of 16 KiB (an SDXL picture of 256 pixels: mean and log-variance, float32), and a tenth as
many of 128 KiB (512 pixels), are written, opened and read in random order. Every read is checked
by CRC-32 and copied. Cold reads follow after the pages of all files were dropped from the system's
cache (Linux; the folder's own entries stay in it).
"""

import argparse
import hashlib
import os
import random
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from sdlora.data.cache.tensor_store import TensorStore
from sdlora.runtime.files import write_bytes

SHAPES = {"16 KiB": (8, 16, 32), "128 KiB": (8, 64, 64)}
REPEATS = 5
READS = 2_000
"""Entries read in random order, each repeat other ones."""

DURABLE = 300
"""Files that are written with fsync; the time of all is reckoned from theirs."""

Read = Callable[[str], Tensor]


class Shards:
    """The store, with shards of so many entries."""

    def __init__(self, folder: Path, shard_entries: int) -> None:
        self._folder = folder
        self._shard_entries = shard_entries

    def write(self, entries: Iterator[tuple[str, Tensor]], count: int) -> float:
        """Write everything, durably; seconds."""
        store = TensorStore(self._folder)
        start = time.perf_counter()
        with store.writer(shard_entries=self._shard_entries, shard_bytes=2**40) as writer:
            for key, tensor in entries:
                writer.put(key, tensor)
        return time.perf_counter() - start

    def open(self, keys: list[str]) -> Read:
        """Look at what is there, and give what reads it."""
        store = TensorStore(self._folder)
        found = store.find(keys)
        assert len(found) == len(keys)
        return store.mapped(keys).__getitem__

    def files(self, keys: list[str]) -> list[Path]:
        """Where some entries may lie."""
        return list(self._folder.glob("*.safetensors"))


class Files:
    """One safetensors file an entry, in 256 folders, its checksum in its metadata."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, entries: Iterator[tuple[str, Tensor]], count: int) -> float:
        """Write everything, the first few durably; seconds that all of it takes durably."""
        start = time.perf_counter()
        durable_s = 0.0
        for number, (key, tensor) in enumerate(entries):
            path = self._path(key)
            checksum = f"{_checksum(tensor):08x}"
            data = save({"latents": tensor}, metadata={"checksum": checksum})
            if number < DURABLE:
                write_bytes(path, data)
                durable_s = time.perf_counter() - start
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return durable_s * count / min(DURABLE, count)

    def open(self, keys: list[str]) -> Read:
        """Look at what is there, and give what reads it."""
        present = {path.stem for path in self._folder.rglob("*.safetensors")}
        assert present.issuperset(keys)
        return self._read

    def files(self, keys: list[str]) -> list[Path]:
        """Where some entries lie."""
        return [self._path(key) for key in keys]

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"

    def _read(self, key: str) -> Tensor:
        with safe_open(self._path(key), framework="pt") as file:
            tensor: Tensor = file.get_tensor("latents")
            assert file.metadata()["checksum"] == f"{_checksum(tensor):08x}"
        return tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one layout costs: medians of ``REPEATS``; writing and removing once."""

    write_s: float
    open_s: float
    warm_us: float
    cold_us: float
    disk_mib: float
    remove_s: float
    num_files: int


def measure(
    layout: Shards | Files, folder: Path, keys: list[str], shape: tuple[int, ...]
) -> Result:
    """Write, open, read and remove one layout."""
    tensors = [torch.randn(shape) for _ in range(16)]
    entries = ((key, tensors[number % 16]) for number, key in enumerate(keys))
    write_s = layout.write(entries, len(keys))
    os.sync()  # what is not on disk cannot be dropped from the cache
    opening, warm, cold = [], [], []
    for repeat in range(REPEATS):
        start = time.perf_counter()
        read = layout.open(keys)
        opening.append(time.perf_counter() - start)
        warm.append(_read_s(read, random.Random(repeat).sample(keys, min(READS, len(keys)))))
        del read  # what is mapped is not dropped
    for repeat in range(REPEATS):
        few = random.Random(100 + repeat).sample(keys, min(READS // 4, len(keys)))
        _drop_pages(layout.files(few))
        cold.append(_read_s(layout.open(keys), few))
    files = [path for path in folder.rglob("*") if path.is_file()]
    disk = sum(getattr(path.stat(), "st_blocks", path.stat().st_size / 512) for path in files)
    start = time.perf_counter()
    shutil.rmtree(folder)
    remove_s = time.perf_counter() - start
    return Result(
        write_s=write_s,
        open_s=median(opening),
        warm_us=1e6 * median(warm),
        cold_us=1e6 * median(cold),
        disk_mib=disk * 512 / 2**20,
        remove_s=remove_s,
        num_files=len(files),
    )


def _read_s(read: Read, keys: list[str]) -> float:
    """Seconds that reading one entry takes."""
    start = time.perf_counter()
    for key in keys:
        read(key).clone()
    return (time.perf_counter() - start) / len(keys)


def _drop_pages(files: list[Path]) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)


def main() -> None:
    """Measure every layout at both sizes and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache_layout", description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000, help="of 16 KiB")
    parser.add_argument("--shard-entries", type=int, nargs="+", default=[1024], metavar="N")
    options = parser.parse_args()
    table = Table(title="Cache layouts; x: times less than with one file an entry")
    table.add_column("")
    for heading in (
        "write, s",
        "open, ms",
        "warm, us",
        "cold, us",
        "disk, MiB",
        "remove, s",
        "files",
    ):
        table.add_column(heading, justify="right")
    for size, shape in SHAPES.items():
        number = options.entries if size == "16 KiB" else max(1, options.entries // 10)
        keys = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(number)]
        table.add_row(f"{number:,} of {size}")
        single: Result | None = None
        for entries in (1, *options.shard_entries):
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "cache"
                layout = Shards(folder, entries) if entries > 1 else Files(folder)
                result = measure(layout, folder, keys, shape)
            single = single or result
            table.add_row(f"{entries:,} a file", *cells(result, single))
        table.add_section()
    Console(width=max(Console().width, 120)).print(table)


def cells(result: Result, single: Result) -> list[str]:
    """A table row: each number, and how many times less it is than with one file an entry."""
    pairs = [
        (result.write_s, single.write_s, ".1f"),
        (1000 * result.open_s, 1000 * single.open_s, ".0f"),
        (result.warm_us, single.warm_us, ".0f"),
        (result.cold_us, single.cold_us, ".0f"),
        (result.disk_mib, single.disk_mib, ".0f"),
        (result.remove_s, single.remove_s, ".2f"),
    ]
    shown = [f"{own:{form}} ({other / own:.1f}x)" for own, other, form in pairs]
    return [*shown, f"{result.num_files:,}"]


if __name__ == "__main__":
    main()
