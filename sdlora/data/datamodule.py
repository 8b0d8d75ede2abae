"""The training stream as Lightning wants it: endless, and starting where the trainer stands."""

from collections.abc import Iterator

import lightning
import torch
from torch.utils.data import DataLoader, Sampler

from sdlora.data.dataset import Batch, PictureDataset, collate


class StreamSampler(Sampler[list[int]]):
    """Global sample indices of one process's micro-batches, without end.

    Micro-batch ``k`` of all processes together is ``k W B .. (k + 1) W B - 1``; each of the ``W``
    processes takes ``B`` of them in a row. It has no length on purpose: steps govern, not epochs.

    Args:
        first_micro_batch: ``k`` of the first batch.
        batch_size: ``B``, samples of one process in one micro-batch.
        rank: This process, 0 .. ``world_size - 1``.
        world_size: ``W``, number of processes.
    """

    def __init__(
        self, first_micro_batch: int, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._first = first_micro_batch
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size

    def __iter__(self) -> Iterator[list[int]]:
        k = self._first
        while True:
            start = (k * self._world_size + self._rank) * self._batch_size
            yield list(range(start, start + self._batch_size))
            k += 1


class CaptionDataModule(lightning.LightningDataModule):
    """Serves a picture dataset as an endless stream of batches.

    The stream starts at micro-batch ``global_step * accumulate_grad_batches``, so a resumed run
    goes on with the very sample it would have seen next, and no state needs saving. The trainer
    must have ``use_distributed_sampler=False``: the stream deals itself out to the processes.

    Args:
        dataset: The samples.
        batch_size: Samples of one process in one micro-batch.
        num_workers: Processes that prepare batches; 0 is best with a cache.
        accumulate_grad_batches: Micro-batches in one optimizer step.
    """

    def __init__(
        self,
        dataset: PictureDataset,
        batch_size: int,
        num_workers: int = 0,
        accumulate_grad_batches: int = 1,
    ) -> None:
        super().__init__()
        for key, value, least in (
            ("data.batch_size", batch_size, 1),
            ("data.num_workers", num_workers, 0),
            ("trainer.accumulate_grad_batches", accumulate_grad_batches, 1),
        ):
            if value < least:
                raise ValueError(f"{key}={value}: must be at least {least}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.accumulate_grad_batches = accumulate_grad_batches

    def train_dataloader(self) -> DataLoader[Batch]:
        """The stream from the trainer's present step on; from its start without a trainer."""
        trainer = self.trainer
        done, rank, world_size, on_cuda = 0, 0, 1, False
        if trainer is not None:
            done = trainer.global_step * self.accumulate_grad_batches
            rank, world_size = trainer.global_rank, trainer.world_size
            on_cuda = trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            self.dataset,
            batch_sampler=StreamSampler(done, self.batch_size, rank, world_size),
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=on_cuda,
            persistent_workers=self.num_workers > 0,
        )

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch; from page-locked memory, so without waiting, where the device is a GPU."""
        return batch.to(device, non_blocking=device.type == "cuda")
