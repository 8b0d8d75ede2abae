"""The tensor store: encoded tensors on disk by content hash, shared by all runs."""

import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from torch import Tensor

from sdlora.data.cache.entries import EntryReader, EntryWriter
from sdlora.data.cache.shards import (
    ALTERED,
    SHARD_NAME,
    Shard,
    ShardError,
    last_use,
    remove_abandoned,
    repair,
    spare_handles,
    write_shard,
)

_SHARD_ENTRIES = 1024
"""256 to 4,096 cost the same (``python -m benchmarks.cache_layout``); fewer take more file handles,
with more a killed run loses more work."""

_SHARD_BYTES = 64 * 2**20

_GONE = "removed meanwhile"

_Faults = defaultdict[str, list[str]]
"""Reason -> names of the damaged files or entries."""


class TensorStore:
    """A folder of shards that any number of processes read, write and evict at once.

    Damaged entries are reported and treated as missing, so that the caller encodes them again; a
    folder that cannot be written is reported and not used. A shard's modification time is its
    last use.

    Args:
        folder: Made at the first write.
        max_bytes: Size that :meth:`evict` reduces the store to; ``None``: no limit.
        say: Prints one line.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int | None = None, say: Callable[[str], None] = print
    ) -> None:
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._print = say
        self._said: set[str] = set()
        self._shards: dict[str, Shard] = {}  # by file name
        self._index: dict[str, Shard] = {}  # by key
        self._refused: set[str] = set()  # names of files that are wrong and could not be removed
        self._used: set[str] = set()  # names of shards that this process has use for
        self._held: set[Shard] = set()  # open for reading at random
        self._lock = threading.RLock()
        remove_abandoned(self._folder)
        self._refresh()

    def find(self, keys: Sequence[str]) -> set[str]:
        """The ``keys`` in the store; from now on this process does not evict them."""
        with self._lock:
            self._refresh()
            return {key for wanted in self._by_shard(keys).values() for key in wanted}

    def num_bytes(self, keys: Sequence[str]) -> int:
        """Size of the tensors of ``keys`` that are in the store."""
        with self._lock:
            self._refresh()
            return sum(self._index[key].num_bytes(key) for key in set(keys) if key in self._index)

    def load(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The tensors of ``keys`` that are in the store and intact.

        Returns:
            Views of mapped files: memory is used by what is copied out of them.
        """
        loaded: dict[str, Tensor] = {}
        faults: _Faults = defaultdict(list)
        with self._lock:
            self._refresh()
            for shard, wanted in self._by_shard(keys).items():
                loaded |= self._sound(shard, wanted, faults)
            self._refresh()
        self._report(faults, "entries")
        return loaded

    def mapped(self, keys: Sequence[str]) -> Mapping[str, Tensor]:
        """The tensors of ``keys`` in the store, read on demand and checked the first time.

        The mapping can be pickled. It raises ``StoreError`` for a key that is missing or whose
        entry turns out to be damaged.
        """
        entries: dict[str, Shard] = {}
        faults: _Faults = defaultdict(list)
        with self._lock:
            self._refresh()
            for shard, wanted in self._by_shard(keys).items():
                with self._refusing(shard.path, wanted, faults):
                    shard.open("pread" if len(self._held) < spare_handles() else "mmap")
                    self._held.add(shard)
                    entries |= dict.fromkeys(wanted, shard)
            self._refresh()
        self._report(faults, "entries")
        return EntryReader(entries)

    @contextmanager
    def writer(
        self, *, shard_entries: int = _SHARD_ENTRIES, shard_bytes: int = _SHARD_BYTES
    ) -> Iterator[EntryWriter]:
        """A writer, whose tensors are all on disk when the block ends, even by an error.

        Args:
            shard_entries: Number of waiting tensors at which a shard is written.
            shard_bytes: Number of waiting bytes at which a shard is written.
        """
        writer = EntryWriter(self._write, shard_entries, shard_bytes)
        try:
            yield writer
        finally:
            writer.flush()

    @contextmanager
    def filling(self, name: str) -> Iterator[None]:
        """Let one process at a time encode a set; others wait, and then find it.

        The operating system frees the lock of a killed process. Without write access the block runs
        unlocked.

        Args:
            name: Name of the set: letters, digits, ``-`` and ``_``.
        """
        if not re.fullmatch(r"[\w-]+", name, re.ASCII):
            raise ValueError(f"name={name!r}: only letters, digits, - and _ may be in it")
        path = self._folder / f"{name}.lock"
        with ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()  # an error if that is not possible; filelock may wait instead
                self._acquire(FileLock(path), name, stack)
            except OSError as error:
                self._say_unwritable(error)
            yield

    def evict(self) -> int:
        """Remove the least recently used shards beyond ``max_bytes``, except those in use here.

        Returns:
            Number of shards removed.
        """
        if self._max_bytes is None:
            return 0
        with self._lock:
            self._refresh()
            excess = sum(shard.file_bytes for shard in self._shards.values()) - self._max_bytes
            unused = [s for name, s in self._shards.items() if name not in self._used]
            removed = 0
            for shard in sorted(unused, key=last_use):
                if excess <= 0:
                    break
                with suppress(OSError):  # open elsewhere, which matters on Windows only
                    shard.path.unlink()
                    excess -= shard.file_bytes
                    removed += 1
            self._refresh()
        if excess > 0:
            used, limit = (self._max_bytes + excess) / 2**30, self._max_bytes / 2**30
            self._say_once(f"{used:.2f} GiB are in use, more than data.cache.max_gib={limit:.2f}")
        return removed

    def _by_shard(self, keys: Sequence[str]) -> dict[Shard, list[str]]:
        """The existing keys by shard; their shards count as used."""
        groups: dict[Shard, list[str]] = {}
        for key in dict.fromkeys(keys):
            shard = self._index.get(key)
            if shard is not None:
                groups.setdefault(shard, []).append(key)
        for shard in groups:
            if shard.path.name not in self._used:
                self._used.add(shard.path.name)
                with suppress(OSError):  # a folder that may only be read
                    os.utime(shard.path)
        return groups

    def _sound(self, shard: Shard, wanted: list[str], faults: _Faults) -> dict[str, Tensor]:
        sound: dict[str, Tensor] = {}
        with self._refusing(shard.path, wanted, faults):
            sound = shard.sound(wanted)
        if len(sound) == len(wanted) or shard.path.name in self._refused:
            return sound
        faults[ALTERED] += [key for key in wanted if key not in sound]
        # Windows removes no file that is mapped, and views keep it so
        sound = {key: tensor.clone() for key, tensor in sound.items()}
        try:
            renewed = repair(shard)
        except OSError as error:
            self._refused.add(shard.path.name)
            self._say_unwritable(error)
        else:
            if renewed is not None:
                self._add(renewed)
                self._used.add(renewed.path.name)
        return sound

    def _write(self, tensors: dict[str, Tensor]) -> bool:
        """Write the missing tensors; returns whether that succeeded."""
        with self._lock:
            self._refresh()
            present = {key for keys in self._by_shard(list(tensors)).values() for key in keys}
            new = {key: tensor for key, tensor in tensors.items() if key not in present}
            if new:
                try:
                    self._add(write_shard(self._folder, new))
                except OSError as error:
                    self._say_unwritable(error)
                    return False
                self._by_shard(list(new))
        return True

    def _add(self, shard: Shard) -> None:
        self._shards[shard.path.name] = shard
        self._index.update(dict.fromkeys(shard.keys, shard))

    def _refresh(self) -> None:
        """Find shards that any process wrote or removed, and read the headers of new ones."""
        names = self._listed() - self._refused
        if not self._shards.keys() <= names:
            self._shards = {name: self._shards[name] for name in self._shards.keys() & names}
            self._index = {key: shard for shard in self._shards.values() for key in shard.keys}
        faults: _Faults = defaultdict(list)
        for name in sorted(names - self._shards.keys()):
            with self._refusing(self._folder / name, [name], faults):
                self._add(Shard(self._folder / name))
        faults.pop(_GONE, None)  # no caller has requested these yet
        self._report(faults, "files")

    def _listed(self) -> set[str]:
        try:
            with os.scandir(self._folder) as entries:
                return {e.name for e in entries if SHARD_NAME.fullmatch(e.name) and e.is_file()}
        except FileNotFoundError:
            return set()
        except OSError as error:
            self._say_once(f"cannot be read ({error.strerror}); continuing without it")
            return set()

    @contextmanager
    def _refusing(self, path: Path, names: Sequence[str], faults: _Faults) -> Iterator[None]:
        """Note the fault of a file and ignore the file from now on; a damaged one is removed."""
        try:
            yield
        except ShardError as error:
            faults[str(error)] += names
            with suppress(OSError):
                path.unlink()
        except FileNotFoundError:
            faults[_GONE] += names
        except OSError as error:
            faults[f"unreadable, {error.strerror or error}"] += names
        else:
            return
        self._refused.add(path.name)

    def _acquire(self, lock: FileLock, name: str, stack: ExitStack) -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._say(f"another process is filling it with {name}; waiting for that one")
            lock.acquire()
        stack.callback(lock.release)

    def _report(self, faults: Mapping[str, Sequence[str]], what: str) -> None:
        """Report each kind of fault once, with the number of cases and the first one."""
        for reason, names in faults.items():
            self._say(f"{len(names)} {what} lost, to be encoded again: {reason} (first {names[0]})")

    def _say_unwritable(self, error: OSError) -> None:
        remedy = "free disk space, or name another folder with data.cache.dir"
        reason = error.strerror or error
        self._say_once(f"cannot be written ({reason}), continuing without it; {remedy}")

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._say(message)

    def _say(self, message: str) -> None:
        self._print(f"cache {self._folder}: {message}")
