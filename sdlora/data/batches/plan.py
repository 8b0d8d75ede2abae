"""The plan of the endless training stream: the samples of each batch, a function of the seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.data.selection.picture_set import PictureSet
from sdlora.runtime.randomness import generator


@dataclass(frozen=True, slots=True)
class Draw:
    """The samples of one batch.

    Attributes:
        first: Global index of the first sample; the others follow.
        pictures: Picture of each sample, ``[b]``, int64; ``b`` is at most the batch size.
    """

    first: int
    pictures: Tensor

    @property
    def sample_index(self) -> Tensor:
        """Global indices of the samples, ``[b]``, int64."""
        return torch.arange(self.first, self.first + len(self.pictures))


@dataclass(frozen=True, slots=True)
class _Epoch:
    pictures: Tensor  # [N] in the order in which they are shown
    starts: Tensor  # [batches + 1] where each batch begins in it


class BatchPlan:
    """Batches of an endless stream, by their number.

    An epoch shows every picture as often as it repeats. Its order is a permutation given by the
    seed and the epoch; each bucket's pictures are split into batches in that order, the last of
    which may be short, and the batches are shuffled. So all batches of an epoch are known from its
    number, nothing is dropped, and nothing is repeated to fill a batch.

    Args:
        buckets: Bucket number of each picture.
        repeats: How often an epoch shows each picture, >= 1.
        batch_size: Largest number of samples in a batch.
        seed: The run's seed.

    Attributes:
        num_samples: Samples of an epoch.
        batches_per_epoch: Batches of an epoch, the same in each.
    """

    def __init__(
        self, buckets: Sequence[int], repeats: Sequence[int], batch_size: int, seed: int
    ) -> None:
        if not len(buckets):
            raise ValueError("no picture to make batches of")
        times = torch.tensor(list(repeats), dtype=torch.int64)
        self._picture = torch.repeat_interleave(torch.arange(len(buckets)), times)
        self._bucket = torch.tensor(list(buckets), dtype=torch.int64)[self._picture]
        self._batch_size = batch_size
        self._seed = seed
        self._epochs: dict[int, _Epoch] = {}
        self.num_samples = len(self._picture)
        sizes = torch.bincount(self._bucket)
        self.batches_per_epoch = int((-(-sizes // batch_size)).sum())

    def draw(self, batch: int) -> Draw:
        """The samples of batch number ``batch``, counted from the start of training."""
        number, place = divmod(batch, self.batches_per_epoch)
        epoch = self._epoch(number)
        start, end = epoch.starts[place].item(), epoch.starts[place + 1].item()
        first = number * self.num_samples + int(start)
        return Draw(first, epoch.pictures[int(start) : int(end)])

    def share(self, batch: int, window: int) -> float:
        """Weight of a batch in an optimizer step over ``window`` batches; 1 if all have one size.

        The step averages the batches' mean losses. Short batches hold fewer samples, so each mean
        is first multiplied by its number of samples over the average number, which makes the step
        the mean over all samples of the window.

        Args:
            batch: Its number.
            window: Batches in one optimizer step, over all processes.
        """
        first = batch // window * window
        sizes = [self._size(number) for number in range(first, first + window)]
        return self._size(batch) * window / sum(sizes)

    def _size(self, batch: int) -> int:
        number, place = divmod(batch, self.batches_per_epoch)
        starts = self._epoch(number).starts
        return int(starts[place + 1] - starts[place])

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            while len(self._epochs) >= 2:  # a window may reach from one epoch into the next
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[number] = self._shuffled(number)
        return self._epochs[number]

    def _shuffled(self, number: int) -> _Epoch:
        draw = generator(self._seed, "order", number)
        order = torch.randperm(self.num_samples, generator=draw)
        by_bucket = order[torch.argsort(self._bucket[order], stable=True)]
        dealt = [
            batch
            for bucket in by_bucket.split(torch.bincount(self._bucket).tolist())
            for batch in bucket.split(self._batch_size)
            if len(batch)
        ]
        turn = torch.randperm(len(dealt), generator=draw).tolist()
        shown = [dealt[place] for place in turn]
        ends = torch.tensor([len(batch) for batch in shown]).cumsum(0)
        pictures = self._picture[torch.cat(shown)]
        return _Epoch(pictures, torch.cat([torch.zeros(1, dtype=torch.int64), ends]))


def plan_of(pictures: PictureSet, batch_size: int, seed: int) -> BatchPlan:
    """The batches of a set; arguments as of :class:`BatchPlan`."""
    sizes = sorted({cut.bucket for cut in pictures.geometry})
    number = {size: place for place, size in enumerate(sizes)}
    return BatchPlan(
        [number[cut.bucket] for cut in pictures.geometry],
        [picture.repeats for picture in pictures.source.pictures],
        batch_size,
        seed,
    )
