"""The LightningDataModule: an endless stream of batches that starts at the trainer's step."""

from collections.abc import Iterator

import lightning
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from sdlora.data.batches.dataset import Batch, PictureDataset
from sdlora.data.batches.streamed_batches import StreamedBatches


class StreamSampler(Sampler[tuple[int, int]]):
    """Batch numbers of one process, without end, each with the size of its accumulation window.

    Micro-batch ``k`` of all ``W`` processes together is the stream's batches ``k W`` to ``k W + W -
    1``, one for each process. It has no length on purpose: training counts steps, not epochs.

    Args:
        first_micro_batch: ``k`` of the first batch.
        accumulate: Micro-batches in one optimizer step.
        rank: This process, 0 .. ``world_size - 1``.
        world_size: ``W``, number of processes.
    """

    def __init__(
        self, first_micro_batch: int, accumulate: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        self._first = first_micro_batch
        self._window = accumulate * world_size
        self._rank = rank
        self._world_size = world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        k = self._first
        while True:
            yield k * self._world_size + self._rank, self._window
            k += 1


class _Forward(IterableDataset[Batch]):
    """Batches that can only be read forward."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return self._batches


class CaptionDataModule(lightning.LightningDataModule):
    """Data module of an endless stream of picture batches.

    The stream starts at micro-batch ``global_step * accumulate_grad_batches``, so a resumed run
    continues with exactly the next sample, and no state needs saving. The trainer must have
    ``use_distributed_sampler=False``: the stream distributes its batches itself.

    Args:
        dataset: The batches.
        num_workers: Processes that prepare batches; 0 is best with a cache. A streamed set is read
            in the training process: each worker would read all of it.
        accumulate_grad_batches: Micro-batches in one optimizer step.
    """

    def __init__(
        self,
        dataset: PictureDataset | StreamedBatches,
        num_workers: int = 0,
        accumulate_grad_batches: int = 1,
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.num_workers = num_workers
        self.accumulate_grad_batches = accumulate_grad_batches

    def train_dataloader(self) -> DataLoader[Batch]:
        """The stream from the trainer's current step; from its start without a trainer."""
        trainer = self.trainer
        done, rank, world_size, on_cuda = 0, 0, 1, False
        if trainer is not None:
            done = trainer.global_step * self.accumulate_grad_batches
            rank, world_size = trainer.global_rank, trainer.world_size
            on_cuda = trainer.strategy.root_device.type == "cuda"
        if isinstance(self.dataset, StreamedBatches):
            batches = self.dataset.batches(done * world_size, rank, world_size)
            return DataLoader(_Forward(batches), batch_size=None)
        return DataLoader(
            self.dataset,
            batch_size=None,  # the dataset makes whole batches
            sampler=StreamSampler(done, self.accumulate_grad_batches, rank, world_size),
            num_workers=self.num_workers,
            pin_memory=on_cuda and self.num_workers > 0,
            persistent_workers=self.num_workers > 0,
        )

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch, without waiting for the device."""
        return batch.to(device)
