"""Latents and prompt embeddings of a whole dataset, encoded once and served by number."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdlora.data.cache.tensor_store import TensorStore
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sources.picture_source import DataError, record
from sdlora.models.conditioning import Conditioning, stacked
from sdlora.runtime.devices import send
from sdlora.runtime.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Where encoded tensors are kept.

    Attributes:
        store: On disk, shared by all runs; ``None``: in memory, for this run.
        resident_bytes: Up to this size a set is kept on ``device``; a larger one is memory-mapped.
        device: Device of the encoders and of the tables.
        progress: Shows bars.
        num_workers: Processes that decode or draw; not used for few pictures.
    """

    store: TensorStore | None
    resident_bytes: int
    device: torch.device
    progress: Progress = field(default_factory=lambda: Progress(enabled=False))
    num_workers: int = 0


EncodeNumbers = Callable[[list[int]], Iterator[tuple[int, Tensor]]]
"""Numbers of keys -> (number, tensor) of those that can be encoded."""


class Resident:
    """Tensors by number on one device, one block for each shape."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        groups: dict[torch.Size, list[int]] = {}
        for number, tensor in enumerate(tensors):
            groups.setdefault(tensor.shape, []).append(number)
        self._group = torch.empty(len(tensors), dtype=torch.int64)
        self._row = torch.empty(len(tensors), dtype=torch.int64)
        self._blocks = []
        for group, numbers in enumerate(groups.values()):
            self._group[numbers] = group
            self._row[numbers] = torch.arange(len(numbers))
            self._blocks.append(torch.stack([tensors[number] for number in numbers]).to(device))

    def rows(self, numbers: Tensor) -> Conditioning:
        """Tensors ``numbers`` ``[B]``, stacked if they are of one shape."""
        groups = self._group[numbers].tolist()
        if len(set(groups)) > 1:
            places = zip(groups, self._row[numbers].tolist(), strict=True)
            return tuple(self._blocks[group][row] for group, row in places)
        block = self._blocks[groups[0]]
        return block[send(self._row[numbers], block.device)]


class Mapped:
    """Tensors by number, read from memory-mapped files on demand."""

    def __init__(self, entries: Mapping[str, Tensor], keys: Sequence[str]) -> None:
        self._entries = entries
        self._keys = list(keys)

    def rows(self, numbers: Tensor) -> Conditioning:
        """Tensors ``numbers`` ``[B]``, stacked if they are of one shape, on the CPU."""
        return stacked([self._entries[self._keys[number]] for number in numbers.tolist()])


Table = Resident | Mapped
"""Tensors by number."""


def latent_keys(pictures: PictureSet, flip: bool, encoder: str) -> list[str]:
    """Keys of all latents: a key contains all that its latents depend on, so none can be stale.

    Args:
        pictures: The pictures, known by the hash of their bytes, and their cuts.
        flip: Whether mirrored pictures are encoded too.
        encoder: What names the VAE's weights and precision.
    """
    return [
        _key("latents", picture.content, str(cut.bucket), repr(cut.crop), view, encoder)
        for picture, cut in zip(pictures.source.pictures, pictures.geometry, strict=True)
        for view in (("as it is", "mirrored") if flip else ("as it is",))
    ]


def embedding_keys(captions: Sequence[str], encoder: str) -> list[str]:
    """Keys of all prompt embeddings; ``encoder`` names tokenizer, text encoder and precision."""
    return [_key("embeddings", caption, encoder) for caption in captions]


def _key(*fields: str) -> str:
    return hashlib.sha256(record(*fields)).hexdigest()


class Encodings:
    """Tensors by key: those in the store and those that are encoded now.

    Two steps: :meth:`fill` encodes what is missing, as far as possible; :meth:`table` then returns
    the tensors of the given keys.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._fresh: dict[str, Tensor] = {}
        self._fresh_bytes = 0

    def fill(self, keys: Sequence[str], encode: EncodeNumbers) -> None:
        """Encode missing tensors; ``encode`` takes numbers of keys and yields tensors."""
        store = self._cache.store
        missing = _lacking(keys, set() if store is None else store.find(keys))
        if store is None:
            self._fresh |= {keys[number]: tensor for number, tensor in encode(missing)}
            return
        if not missing:
            return
        with store.filling("encodings"):
            missing = _lacking(keys, store.find(keys))  # another process may have made them
            with store.writer() as writer:
                for number, tensor in encode(missing):
                    writer.put(keys[number], tensor)
                    self._keep(keys[number], tensor)

    def table(self, keys: Sequence[str], encode: EncodeNumbers) -> Table:
        """The tensors of ``keys``, in memory if they fit; damaged entries are encoded again.

        Raises:
            DataError: If a set larger than the memory limit could not be written to the store.
        """
        store, fresh = self._cache.store, self._fresh
        stored = [key for key in dict.fromkeys(keys) if key not in fresh]
        if store is None or not stored:
            return Resident([fresh[key] for key in keys], self._cache.device)
        if store.num_bytes(stored) + self._fresh_bytes > self._cache.resident_bytes:
            return Mapped(_mapped(store, keys), keys)
        known = fresh | store.load(stored)
        damaged = _lacking(keys, set(known))
        if damaged:
            with store.writer() as writer:
                for number, tensor in encode(damaged):
                    known[keys[number]] = tensor
                    writer.put(keys[number], tensor)
        return Resident([known[key] for key in keys], self._cache.device)

    def _keep(self, key: str, tensor: Tensor) -> None:
        """Keep a new tensor in memory while it fits: reading it back would only cost time."""
        if self._fresh_bytes + tensor.nbytes <= self._cache.resident_bytes:
            self._fresh[key] = tensor
            self._fresh_bytes += tensor.nbytes


def _lacking(keys: Sequence[str], present: set[str]) -> list[int]:
    """Numbers of the missing keys, each key once."""
    first: dict[str, int] = {}
    for number, key in enumerate(keys):
        first.setdefault(key, number)
    return [number for key, number in first.items() if key not in present]


def _mapped(store: TensorStore, keys: Sequence[str]) -> Mapping[str, Tensor]:
    lacking = len(_lacking(keys, store.find(keys)))
    if lacking:
        raise DataError(
            f"data.cache.dir: {lacking} encodings could not be written there, and the set is "
            "larger than data.cache.resident_gib; free disk space, name another folder, or set "
            "data.cache=off"
        )
    return store.mapped(keys)
