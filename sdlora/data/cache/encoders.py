"""Batched encoding of pictures (VAE) and captions (text encoders) for the cache."""

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdlora.config.data import DataConfig
from sdlora.data.cache.encodings import Cache, Encodings, Table, embedding_keys, latent_keys
from sdlora.data.captions.set_captions import SetCaptions
from sdlora.data.pictures.cuts import Geometry, cut_out
from sdlora.data.pictures.decode import to_tensor, to_unit_range
from sdlora.data.pictures.picture import ERROR, Finding
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sources.picture_source import DataError
from sdlora.models.family import Family

_WORTH_WORKERS = 256
"""With fewer pictures, starting worker processes takes longer than it saves."""

_BATCH = 16
"""Most pictures, or captions, encoded at a time."""

_BATCH_PIXELS = 1024 * 1024
"""Most pixels encoded at a time, by a VAE that takes some GiB for so many: one picture of 1024 px
keeps a GPU busy."""

_Identity = tuple[str, Geometry]
"""What a latent depends on: the hash of a picture's bytes, and its cut."""


def batch_sizes(pictures: PictureSet) -> dict[_Identity, int]:
    """Size of the batch that each picture is encoded in, where its whole set is.

    On a CPU the last bits of a latent depend on how many pictures are encoded with it, but not on
    which, nor on its place: with the number in its key, a latent is a function of its key alone,
    whatever else is in the cache.
    """
    buckets: dict[tuple[int, int], list[_Identity]] = {}
    known = zip(pictures.source.pictures, pictures.geometry, strict=True)
    for identity in dict.fromkeys((picture.content, cut) for picture, cut in known):
        buckets.setdefault(identity[1].bucket, []).append(identity)
    sizes = {}
    for (width, height), members in buckets.items():
        most = _most_at_a_time(width * height)
        for number, identity in enumerate(members):
            sizes[identity] = min(most, len(members) - number // most * most)
    return sizes


def _most_at_a_time(pixels: int) -> int:
    """Number of pictures of so many pixels that are encoded at a time."""
    return min(_BATCH, max(1, _BATCH_PIXELS // pixels))


def encoded_pictures(
    pictures: PictureSet, data: DataConfig, family: Family, encoder: str, cache: Cache
) -> tuple[Table, PictureSet]:
    """Latents of all pictures, and the set without the pictures that cannot be decoded.

    Args:
        pictures: The pictures, and what of each is trained on.
        data: Whether mirrored ones are wanted too, and what the set is called in a message.
        family: Encodes pictures.
        encoder: Key of the VAE's weights and precision.
        cache: Where latents are kept.

    Raises:
        DataError: If no picture is left.
    """
    flip, encodings, sizes = data.flip, Encodings(cache), batch_sizes(pictures)
    encode = PictureEncoder(pictures, flip, family, cache, sizes)
    encodings.fill(sized_keys(pictures, flip, encoder, sizes), encode)
    left = pictures.without(encode.faults)
    if not left.geometry:
        lines = [f"\n  {each}" for each in left.source.findings if each.severity == ERROR]
        raise DataError(f"{data.named_source}: no picture can be used:{''.join(lines)}")
    keys = sized_keys(left, flip, encoder, sizes)
    return encodings.table(keys, PictureEncoder(left, flip, family, cache, sizes)), left


def sized_keys(
    pictures: PictureSet, flip: bool, encoder: str, sizes: Mapping[_Identity, int]
) -> list[str]:
    """Keys of all latents with the sizes of their batches; arguments as for ``latent_keys``."""
    views, keys = (2 if flip else 1), latent_keys(pictures, flip, encoder)
    known = zip(pictures.source.pictures, pictures.geometry, strict=True)
    own = [sizes[picture.content, cut] for picture, cut in known]
    return [f"{key}-{own[number // views]}" for number, key in enumerate(keys)]


def encoded_captions(captions: SetCaptions, family: Family, encoder: str, cache: Cache) -> Table:
    """Prompt embeddings of all captions, in the order of ``captions.texts``.

    Args:
        captions: The captions; static.
        family: Encodes prompts.
        encoder: Key of tokenizers, text encoders and precision.
        cache: Where embeddings are kept.
    """
    encodings, keys = Encodings(cache), embedding_keys(captions.texts, encoder)
    encode = CaptionEncoder(captions.token_ids, family, cache)
    encodings.fill(keys, encode)
    return encodings.table(keys, encode)


class PictureEncoder:
    """Encodes pictures by the numbers of their latent keys, and collects those that fail.

    Args:
        pictures: The pictures, and what of each is shown.
        flip: Whether key numbers are ``2 * picture + mirrored``, else ``picture``.
        family: Encodes pictures.
        cache: Device, display and number of workers.
        sizes: Size of each picture's batch; a smaller batch is filled with copies. Empty: as many
            as come together.

    Attributes:
        faults: Findings of the pictures that cannot be encoded, by picture.
    """

    def __init__(
        self,
        pictures: PictureSet,
        flip: bool,
        family: Family,
        cache: Cache,
        sizes: Mapping[_Identity, int] | None = None,
    ) -> None:
        self._sizes = sizes or {}
        self._set = pictures
        self._source = pictures.source
        self._geometry = pictures.geometry
        self._views = 2 if flip else 1
        self._family = family
        self._cache = cache
        self.faults: dict[int, Finding] = {}

    @torch.no_grad()
    def __call__(self, numbers: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(number, moments [2C, h, w])``, pictures of one bucket at a time."""
        if numbers:
            with self._family.called("vae"):
                yield from self._all_encoded(numbers)

    def _all_encoded(self, numbers: list[int]) -> Iterator[tuple[int, Tensor]]:
        views: dict[int, list[int]] = {}
        for number in numbers:
            views.setdefault(number // self._views, []).append(number % self._views)
        batch: list[tuple[int, Tensor]] = []
        for picture, pixels in self._decoded(sorted(views, key=self._batch_kind)):
            if isinstance(pixels, Finding):
                self._add_fault(picture, pixels.kind, pixels.reason)
                continue
            is_full = batch and len(batch) == self._size(batch[0][0])
            if batch and (is_full or not self._go_together(batch[0], (picture, pixels))):
                yield from self._encoded(batch, views)
                batch = []
            batch.append((picture, pixels))
        if batch:
            yield from self._encoded(batch, views)

    def _add_fault(self, picture: int, kind: str, reason: str) -> None:
        """Add a finding for a picture and for its copies, whose latents have the same key."""
        for number in self._copies[self._identity(picture)]:
            self.faults[number] = Finding(self._source.pictures[number].name, kind, reason)

    @cached_property
    def _copies(self) -> dict[tuple[str, Geometry], list[int]]:
        """Pictures with the same bytes and the same cut."""
        groups: dict[tuple[str, Geometry], list[int]] = {}
        for number in range(len(self._geometry)):
            groups.setdefault(self._identity(number), []).append(number)
        return groups

    def _identity(self, picture: int) -> _Identity:
        return self._source.pictures[picture].content, self._geometry[picture]

    def _batch_kind(self, picture: int) -> tuple[tuple[int, int], int, int]:
        """Pictures of one bucket and of one size of batch follow each other."""
        return self._geometry[picture].bucket, -self._size(picture), picture

    def _size(self, picture: int) -> int:
        width, height = self._geometry[picture].bucket
        return self._sizes.get(self._identity(picture), _most_at_a_time(width * height))

    def _go_together(self, one: tuple[int, Tensor], other: tuple[int, Tensor]) -> bool:
        return one[1].shape == other[1].shape and self._size(one[0]) == self._size(other[0])

    def _decoded(self, pictures: list[int]) -> Iterator[tuple[int, "Tensor | Finding"]]:
        workers = self._cache.num_workers if len(pictures) >= _WORTH_WORKERS else 0
        cuts = _Cuts(self._set, pictures)
        loader = DataLoader(cuts, batch_size=None, num_workers=workers)
        return self._cache.progress.track(loader, "encoding pictures", len(pictures))

    def _encoded(
        self, batch: list[tuple[int, Tensor]], views: dict[int, list[int]]
    ) -> Iterator[tuple[int, Tensor]]:
        lacking = self._size(batch[0][0]) - len(batch) if self._sizes else 0
        filled = [pixels for _, pixels in batch] + [batch[-1][1]] * lacking
        pixels = to_unit_range(torch.stack(filled).to(self._cache.device))
        for view in range(self._views):
            moments = self._family.encode_images(pixels.flip(-1) if view else pixels)
            moments = moments.to(self._family.encoding_dtype).cpu()
            sound = moments.isfinite().flatten(1).all(dim=1).tolist()
            for (picture, _), own, finite in zip(batch, moments, sound, strict=False):
                if not finite:
                    reason = (
                        "the VAE gives NaN or infinity for it; use a VAE in float32 (SDXL's own "
                        "overflows in float16)"
                    )
                    self._add_fault(picture, "nan_latents", reason)
                elif view in views[picture]:
                    yield picture * self._views + view, own.clone()


class _Cuts(Dataset[tuple[int, "Tensor | Finding"]]):
    """Pictures cut to their buckets as uint8, or the finding of one that cannot be decoded."""

    def __init__(self, pictures: PictureSet, numbers: list[int]) -> None:
        self._source = pictures.source
        self._geometry = pictures.geometry
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> tuple[int, "Tensor | Finding"]:
        picture = self._numbers[place]
        try:
            image = self._source.image(picture)
            return picture, to_tensor(cut_out(image, self._geometry[picture]))
        except (PictureError, DataError, OSError) as error:
            name = self._source.pictures[picture].name
            return picture, Finding(name, "unreadable", str(error))


class CaptionEncoder:
    """Encodes captions by their numbers.

    Args:
        token_ids: Token ids of all captions, ``[n, L]``, int64.
        family: Encodes prompts.
        cache: Device and display.
    """

    def __init__(self, token_ids: Tensor, family: Family, cache: Cache) -> None:
        self._token_ids = token_ids
        self._family = family
        self._cache = cache

    @torch.no_grad()
    def __call__(self, numbers: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(number, embedding [L, D])``; lengths may differ.

        Raises:
            DataError: If the text encoder gives NaN or infinity.
        """
        if numbers:
            with self._family.called(*self._family.text_encoders):
                yield from self._all_encoded(numbers)

    def _all_encoded(self, numbers: list[int]) -> Iterator[tuple[int, Tensor]]:
        chunks = [numbers[start : start + _BATCH] for start in range(0, len(numbers), _BATCH)]
        for chunk in self._cache.progress.track(chunks, f"encoding captions, {_BATCH} at a time"):
            ids = self._token_ids[chunk].to(self._cache.device)
            embeddings = [each.cpu() for each in self._family.encode_prompts(ids)]
            if not all(each.isfinite().all() for each in embeddings):
                raise DataError(
                    "the text encoder gives NaN or infinity; run it in float32 "
                    "(trainer.precision=fp32)"
                )
            yield from ((n, own.clone()) for n, own in zip(chunk, embeddings, strict=True))
