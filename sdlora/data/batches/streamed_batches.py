"""Training batches of a streamed data set, each a function of its number."""

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from sdlora.config.data import DataConfig
from sdlora.data.batches.dataset import Batch, flips, random_anchors, stacked_pixels
from sdlora.data.captions.recipe import sample_caption
from sdlora.data.captions.set_captions import Tokenize
from sdlora.data.pictures.cuts import CENTER, Geometry, fitted, size_conditioning
from sdlora.data.sources.picture_source import DataError
from sdlora.data.sources.streamed_source import StreamedPicture, StreamedSource


class StreamedBatches:
    """Batches of consecutive rows of a stream without end.

    Row ``n`` of the stream is sample ``n``, used or not, so batch ``j`` holds rows ``j B .. (j + 1)
    B - 1`` and a resumed run continues with the next one. Skipped rows make their batch shorter;
    the sizes of the other batches of an optimizer step are not known in advance, so all batches
    have the same weight.

    Args:
        source: The rows.
        data: Resolution, batch size ``B``, captions, flips and cuts.
        seed: The run's seed.
        tokenize: Captions -> token ids.
    """

    def __init__(
        self, source: StreamedSource, data: DataConfig, seed: int, tokenize: Tokenize
    ) -> None:
        self._source = source
        self._data = data
        self._seed = seed
        self._tokenize = tokenize

    @property
    def num_samples(self) -> int:
        """Rows of an epoch, used or not."""
        return self._source.num_rows

    def batches(self, first: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """One process's share of the stream's batches, from number ``first`` on.

        Raises:
            DataError: If a row cannot be used, or, where those are skipped, a whole batch of them.
        """
        size = self._data.batch_size
        rows = self._rows(first * size)
        number, row = next(rows)
        for batch in count(first):
            held: list[tuple[int, StreamedPicture]] = []
            while number < (batch + 1) * size:
                held.append((number, row))
                number, row = next(rows)
            if not held:
                raise DataError(
                    f"data.root: {size} consecutive rows cannot be used; look at the findings, or "
                    "clean the data set"
                )
            if batch % world_size == rank:
                yield self._batch(held)

    def _rows(self, first: int) -> Iterator[tuple[int, StreamedPicture]]:
        """Usable rows with their number in the endless stream, from number ``first`` on."""
        epoch, place = divmod(first, self._source.num_rows) if first else (0, 0)
        start = first - place
        while True:
            for row in self._source.samples(epoch, place):
                yield start + row.next_start - 1, row
            start += self._source.num_rows
            epoch, place = epoch + 1, 0

    def _batch(self, held: list[tuple[int, StreamedPicture]]) -> Batch:
        index = torch.tensor([number for number, _ in held])
        pictures = [row.picture for _, row in held]
        captions = [
            sample_caption(self._data.captions, picture.text, picture.prefix, self._seed, number)
            for number, picture in zip(index.tolist(), pictures, strict=True)
        ]
        cuts = self._cuts(index, held)
        flipped = flips(self._seed, self._data, index)
        images = [row.image for _, row in held]
        return Batch(
            sample_index=index,
            picture_index=index % self._source.num_rows,
            token_ids=self._tokenize(captions),
            names=tuple(picture.name for picture in pictures),
            weights=torch.ones(len(held)),
            pixels=stacked_pixels(images, cuts, flipped),
            sizes=size_conditioning([image.size for image in images], cuts, flipped),
        )

    def _cuts(self, index: Tensor, held: list[tuple[int, StreamedPicture]]) -> list[Geometry]:
        is_random = self._data.crop == "random"
        anchors = random_anchors(self._seed, index) if is_random else [CENTER] * len(held)
        bucket = (self._data.resolution, self._data.resolution)
        return [
            fitted(row.image.size, bucket, anchor)
            for (_, row), anchor in zip(held, anchors, strict=True)
        ]
