"""Reader and writer of a tensor store's entries."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from sdlora.data.cache.shards import Shard, ShardError, StoreError, repair


class EntryWriter:
    """Collects tensors and writes them in shards; it stops at the first write that fails.

    Args:
        write: Writes tensors by key, and returns whether that succeeded.
        shard_entries: Number of waiting tensors at which a shard is written.
        shard_bytes: Number of waiting bytes at which a shard is written.
    """

    def __init__(
        self, write: Callable[[dict[str, Tensor]], bool], shard_entries: int, shard_bytes: int
    ) -> None:
        self._write = write
        self._shard_entries = shard_entries
        self._shard_bytes = shard_bytes
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes = 0
        self._writing = True

    def put(self, key: str, tensor: Tensor) -> None:
        """Take a copy of ``tensor`` (any shape, dtype, device) for the store."""
        if not self._writing or key in self._waiting:
            return
        own = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        self._waiting[key] = own
        self._waiting_bytes += own.nbytes
        if len(self._waiting) >= self._shard_entries or self._waiting_bytes >= self._shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write the waiting tensors; after a failed write take no more."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        if waiting:
            self._writing = self._write(waiting)


class EntryReader(Mapping[str, Tensor]):
    """Tensors by key, read from their shards on demand and checked the first time.

    It can be pickled for other processes, which open the files themselves.

    Args:
        entries: The shard of each key.

    Raises:
        StoreError: When a missing key or a damaged tensor is read.
    """

    def __init__(self, entries: dict[str, Shard]) -> None:
        self._entries = entries

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._entries:
            raise StoreError(f"{key}: is not in the cache")
        shard = self._entries[key]
        try:
            return shard.tensor(key)
        except ShardError as error:
            remedy = self._repaired(shard)
            raise StoreError(f"cache entry {key} in {shard.path}: {error}; {remedy}") from None
        except OSError as error:
            reason = f"{error.strerror}; run again, and it is encoded again"
            raise StoreError(f"cache entry {key} in {shard.path}: {reason}") from None

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _repaired(self, shard: Shard) -> str:
        """Repair the shard, so that the next run encodes its damaged entries; gives the remedy."""
        try:
            renewed = repair(shard)
        except OSError:
            return "remove that file and run again"
        sound = {} if renewed is None else dict.fromkeys(renewed.keys, renewed)
        for key in [key for key, other in self._entries.items() if other is shard]:
            if key in sound:
                self._entries[key] = sound[key]
            else:
                del self._entries[key]
        return "run again, and it is encoded again"
