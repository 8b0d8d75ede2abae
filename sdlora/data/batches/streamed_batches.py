"""Training batches of a streamed set: rows in a row, each batch still a function of its number."""

from collections.abc import Callable, Iterator
from itertools import count

import torch
from torch import Tensor

from sdlora.data.batches.dataset import Batch, Look
from sdlora.data.captions.recipe import CaptionRecipe
from sdlora.data.pictures.cuts import Geometry, Size, cut_out, fitted, told_sizes
from sdlora.data.pictures.decode import to_tensor, to_unit_range
from sdlora.data.sources.picture_source import DataError
from sdlora.data.sources.streamed_source import StreamedPicture, StreamedSource
from sdlora.runtime.randomness import uniform


class StreamedBatches:
    """Batches of consecutive rows of a stream without end.

    Row ``n`` of the stream is sample ``n``, used or not, so batch ``j`` holds rows ``j B ..
    (j + 1) B - 1`` and a resumed run goes on with the next one. Rows that cannot be used and are
    passed over make their batch shorter; how short the others of an optimizer step will be is not
    known, so each batch counts the same.

    Args:
        source: The rows.
        size: Width and height of the training pictures, in pixels.
        batch_size: ``B``.
        recipe: How captions are made.
        tokenize: Captions -> token ids ``[n, L]``, int64.
        look: Flip and crop.
    """

    def __init__(
        self,
        source: StreamedSource,
        size: Size,
        batch_size: int,
        recipe: CaptionRecipe,
        tokenize: Callable[[list[str]], Tensor],
        look: Look,
    ) -> None:
        self._source = source
        self._size = size
        self._batch_size = batch_size
        self._recipe = recipe
        self._tokenize = tokenize
        self._look = look

    @property
    def num_samples(self) -> int:
        """Rows of an epoch, used or not."""
        return self._source.num_rows

    def batches(self, first: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """One process's share of the stream's batches, from number ``first`` on.

        Raises:
            DataError: If a row cannot be used, or, where those are skipped, a whole batch of them.
        """
        rows = self._rows(first * self._batch_size)
        number, row = next(rows)
        for batch in count(first):
            held: list[tuple[int, StreamedPicture]] = []
            while number < (batch + 1) * self._batch_size:
                held.append((number, row))
                number, row = next(rows)
            if not held:
                raise DataError(
                    f"data.root: {self._batch_size} rows one after the other cannot be used; look "
                    "at the findings, or clean the set"
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
            self._recipe.caption(picture.text, picture.prefix, self._look.seed, number)
            for number, picture in zip(index.tolist(), pictures, strict=True)
        ]
        cuts = self._cuts(index, held)
        flipped = self._flipped(index)
        return Batch(
            sample_index=index,
            picture_index=index % self._source.num_rows,
            token_ids=self._tokenize(captions),
            names=tuple(picture.name for picture in pictures),
            weights=torch.ones(len(held)),
            pixels=self._pixels(held, cuts, flipped),
            sizes=told_sizes([row.image.size for _, row in held], cuts, flipped),
        )

    def _cuts(self, index: Tensor, held: list[tuple[int, StreamedPicture]]) -> list[Geometry]:
        across = down = torch.full((len(held),), 0.5)
        if self._look.random_crop:
            across = uniform(self._look.seed, "crop_x", index)
            down = uniform(self._look.seed, "crop_y", index)
        anchors = torch.stack([across, down], dim=1).tolist()
        return [
            fitted(row.image.size, self._size, (x, y))
            for (_, row), (x, y) in zip(held, anchors, strict=True)
        ]

    def _flipped(self, index: Tensor) -> Tensor:
        if not self._look.flip:
            return torch.zeros(len(index), dtype=torch.bool)
        return uniform(self._look.seed, "flip", index) < 0.5

    def _pixels(
        self, held: list[tuple[int, StreamedPicture]], cuts: list[Geometry], flipped: Tensor
    ) -> Tensor:
        chosen = zip(held, cuts, strict=True)
        pixels = torch.stack([to_tensor(cut_out(row.image, cut)) for (_, row), cut in chosen])
        return to_unit_range(torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels))
