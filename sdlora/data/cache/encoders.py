"""Pictures and captions through the frozen encoders, batched, one bucket at a time."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdlora.data.cache.encodings import Cache
from sdlora.data.pictures.cuts import Geometry, cut_out
from sdlora.data.pictures.decode import PictureError, to_tensor, to_unit_range
from sdlora.data.pictures.picture import Finding
from sdlora.data.sources.picture_source import DataError, PictureSource

_WORTH_WORKERS = 256
"""Below so many pictures, starting worker processes takes longer than it saves."""

_BATCH = 16
"""Pictures, or captions, encoded at a time."""


class PictureEncoder:
    """Encodes pictures by the numbers of their latent keys; what cannot be encoded is a fault.

    Args:
        source: The pictures.
        geometry: What of each is shown.
        flip: Whether key numbers are ``2 * picture + mirrored``, else ``picture``.
        encode_images: Pixels ``[B, 3, H, W]`` in [-1, 1] -> moments ``[B, 2C, h, w]``.
        cache: Device, display and number of workers.

    Attributes:
        faults: What is wrong with the pictures that could not be encoded, by picture.
    """

    def __init__(
        self,
        source: PictureSource,
        geometry: Sequence[Geometry],
        flip: bool,
        encode_images: Callable[[Tensor], Tensor],
        cache: Cache,
    ) -> None:
        self._source = source
        self._geometry = list(geometry)
        self._views = 2 if flip else 1
        self._encode_images = encode_images
        self._cache = cache
        self.faults: dict[int, Finding] = {}

    @torch.no_grad()
    def __call__(self, numbers: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(number, moments [2C, h, w])``, pictures of one bucket at a time."""
        views: dict[int, list[int]] = {}
        for number in numbers:
            views.setdefault(number // self._views, []).append(number % self._views)
        batch: list[tuple[int, Tensor]] = []
        for picture, pixels in self._decoded(sorted(views, key=self._bucket)):
            if isinstance(pixels, Finding):
                self._add_fault(picture, pixels.kind, pixels.reason)
                continue
            if batch and (len(batch) == _BATCH or batch[0][1].shape != pixels.shape):
                yield from self._encoded(batch, views)
                batch = []
            batch.append((picture, pixels))
        if batch:
            yield from self._encoded(batch, views)

    def _add_fault(self, picture: int, kind: str, reason: str) -> None:
        """Note what is wrong with a picture, and with its copies, whose latents have its key."""
        for number in self._copies[self._identity(picture)]:
            self.faults[number] = Finding(self._source.pictures[number].name, kind, reason)

    @cached_property
    def _copies(self) -> dict[tuple[str, Geometry], list[int]]:
        """Pictures of the same bytes and the same cut."""
        groups: dict[tuple[str, Geometry], list[int]] = {}
        for number in range(len(self._geometry)):
            groups.setdefault(self._identity(number), []).append(number)
        return groups

    def _identity(self, picture: int) -> tuple[str, Geometry]:
        return self._source.pictures[picture].content, self._geometry[picture]

    def _bucket(self, picture: int) -> tuple[tuple[int, int], int]:
        return self._geometry[picture].bucket, picture

    def _decoded(self, pictures: list[int]) -> Iterator[tuple[int, "Tensor | Finding"]]:
        workers = self._cache.num_workers if len(pictures) >= _WORTH_WORKERS else 0
        cuts = _Cuts(self._source, self._geometry, pictures)
        loader = DataLoader(cuts, batch_size=None, num_workers=workers)
        return self._cache.progress.track(loader, "encoding pictures", len(pictures))

    def _encoded(
        self, batch: list[tuple[int, Tensor]], views: dict[int, list[int]]
    ) -> Iterator[tuple[int, Tensor]]:
        pixels = to_unit_range(torch.stack([pixels for _, pixels in batch]).to(self._cache.device))
        for view in range(self._views):
            moments = self._encode_images(pixels.flip(-1) if view else pixels).cpu()
            sound = moments.isfinite().flatten(1).all(dim=1).tolist()
            for (picture, _), own, finite in zip(batch, moments, sound, strict=True):
                if not finite:
                    reason = (
                        "the VAE gives NaN or infinity for it; use a VAE in float32 (SDXL's own "
                        "overflows in float16)"
                    )
                    self._add_fault(picture, "nan_latents", reason)
                elif view in views[picture]:
                    yield picture * self._views + view, own.clone()


class _Cuts(Dataset[tuple[int, "Tensor | Finding"]]):
    """Pictures cut to their buckets as uint8, or what is wrong with them."""

    def __init__(
        self, source: PictureSource, geometry: Sequence[Geometry], pictures: list[int]
    ) -> None:
        self._source = source
        self._geometry = geometry
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, place: int) -> tuple[int, "Tensor | Finding"]:
        picture = self._pictures[place]
        try:
            image = self._source.image(picture)
            return picture, to_tensor(cut_out(image, self._geometry[picture]))
        except (PictureError, DataError, OSError) as error:
            name = self._source.pictures[picture].name
            return picture, Finding(name, "unreadable", str(error))


class CaptionEncoder:
    """Encodes captions by their numbers.

    Args:
        token_ids: Of all captions, ``[n, L]``, int64.
        encode_prompts: Token ids ``[B, L]`` -> embeddings ``[B, L, D]``.
        cache: Device and display.
    """

    def __init__(
        self, token_ids: Tensor, encode_prompts: Callable[[Tensor], Tensor], cache: Cache
    ) -> None:
        self._token_ids = token_ids
        self._encode_prompts = encode_prompts
        self._cache = cache

    @torch.no_grad()
    def __call__(self, numbers: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(number, embedding [L, D])``.

        Raises:
            DataError: If the text encoder gives NaN or infinity.
        """
        chunks = [numbers[start : start + _BATCH] for start in range(0, len(numbers), _BATCH)]
        for chunk in self._cache.progress.track(chunks, f"encoding captions, {_BATCH} at a time"):
            ids = self._token_ids[chunk].to(self._cache.device)
            embeddings = self._encode_prompts(ids).cpu()
            if not embeddings.isfinite().all():
                raise DataError(
                    "the text encoder gives NaN or infinity; run it in float32 "
                    "(trainer.precision=fp32)"
                )
            yield from ((n, own.clone()) for n, own in zip(chunk, embeddings, strict=True))
