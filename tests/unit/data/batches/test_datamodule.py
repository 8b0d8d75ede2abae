"""The data module's stream has no end, starts anywhere, and is the same for all workers."""

from itertools import islice
from pathlib import Path

import lightning
import pytest
import torch
from torch import Tensor

from sdlora.data.batches.datamodule import CaptionDataModule, StreamSampler
from sdlora.data.batches.dataset import Batch, PictureDataset
from tests.unit.data.stripes import Stripes, dataset


def stream(batch_size: int = 3) -> PictureDataset:
    """Five pictures in two buckets: batches of 3 and 2, all choices random."""
    return dataset(
        Stripes(5, sizes=((16, 16), (32, 16))),
        bucket=None,
        batch_size=batch_size,
        captions={"dropout": 0.5},
        flip=True,
        crop="random",
    )


class Recorder(lightning.LightningModule):
    """Trains one number and keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen += batch.sample_index.tolist()
        return self.weight * batch.pixels.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def first(count: int, num_workers: int) -> list[Batch]:
    loader = CaptionDataModule(stream(), num_workers=num_workers).train_dataloader()
    return list(islice(loader, count))


def test_numbers_of_workers_give_one_stream() -> None:
    for ours, theirs in zip(first(6, 0), first(6, 2), strict=True):
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.token_ids, theirs.token_ids)
        assert ours.names == theirs.names


def test_a_later_start_is_the_tail() -> None:
    whole = list(islice(StreamSampler(0), 10))
    assert list(islice(StreamSampler(4), 6)) == whole[4:]
    assert whole[0] == (0, 1)


def test_processes_share_a_micro_batch() -> None:
    ranks = [islice(StreamSampler(2, 3, rank, 2), 4) for rank in (0, 1)]
    dealt = [number for pair in zip(*ranks, strict=True) for number in pair]
    assert dealt == [(number, 6) for number in range(2 * 2, 6 * 2)]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # Lightning's advice to users
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning on a newer torch
@pytest.mark.filterwarnings("ignore:.*GPU available but not used")
def test_resumed_training_sees_what_comes_next(tmp_path: Path) -> None:
    def fit(max_steps: int, resume: Path | None = None) -> tuple[lightning.Trainer, Recorder]:
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=max_steps,
            accumulate_grad_batches=2,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = Recorder()
        data = CaptionDataModule(stream(), accumulate_grad_batches=2)
        trainer.fit(module, data, ckpt_path=resume)
        return trainer, module

    _, whole = fit(5)
    trainer, head = fit(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, tail = fit(5, tmp_path / "half.ckpt")
    assert whole.seen == list(range(5 * 5))  # ten batches are five epochs of five
    assert head.seen + tail.seen == whole.seen
    assert torch.equal(tail.weight, whole.weight)
