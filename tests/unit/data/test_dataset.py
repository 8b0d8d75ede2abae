"""The stream: every picture once an epoch, and every sample a function of its index."""

import pickle

import pytest
import torch
from PIL import Image
from torch import Tensor

from sdlora.data.captions import Sample
from sdlora.data.dataset import Batch, PictureDataset, collate


class Stripes:
    """Pictures whose left half tells their number, in the way of a source."""

    def __init__(self, num_pictures: int, size: tuple[int, int] = (16, 16)) -> None:
        self.samples = tuple(Sample(f"{i}.png", f"caption {i % 3}") for i in range(num_pictures))
        self.size = size

    def image(self, index: int) -> Image.Image:
        image = Image.new("RGB", self.size, "white")
        image.paste((index, 0, 0), (0, 0, self.size[0] // 2, self.size[1]))
        return image

    def fingerprint(self) -> str:
        return ""


def tokenize(captions: list[str]) -> Tensor:
    """Token 1 + the caption's number, 0 for the empty one."""
    return torch.tensor([[1 + int(c[-1]) if c else 0] * 4 for c in captions])


def make(num_pictures: int = 7, **changes: object) -> PictureDataset:
    settings = {"resolution": 16, "flip": False, "caption_dropout": 0.0, "seed": 0} | changes
    return PictureDataset(Stripes(num_pictures), tokenize, **settings)


def test_every_epoch_shows_every_picture_once() -> None:
    dataset = make(7)
    order = dataset.__getitems__(range(7 * 5)).picture_index.reshape(5, 7)
    assert (order.sort(dim=1).values == torch.arange(7)).all()
    assert len({tuple(epoch) for epoch in order.tolist()}) == 5  # each in an order of its own


def test_order_follows_the_seed() -> None:
    first = make(seed=0).__getitems__(range(50)).picture_index
    assert torch.equal(make(seed=0).__getitems__(range(50)).picture_index, first)
    assert not torch.equal(make(seed=1).__getitems__(range(50)).picture_index, first)


def test_a_sample_depends_on_its_index_only() -> None:
    dataset = make(flip=True, caption_dropout=0.5, crop="random")
    together = dataset.__getitems__(range(40))
    alone = collate([make(flip=True, caption_dropout=0.5, crop="random")[n] for n in range(40)])
    backwards = collate([dataset[n] for n in reversed(range(40))])
    for name in ("sample_index", "picture_index", "token_ids", "pixels"):
        assert torch.equal(getattr(together, name), getattr(alone, name)), name
        assert torch.equal(getattr(together, name), getattr(backwards, name).flip(0)), name
    assert together.names == alone.names


def test_picture_caption_and_name_stay_together() -> None:
    batch = make(7).__getitems__(range(7))
    red = ((batch.pixels[:, 0, 8, 2] + 1) * 127.5).round().long()
    assert torch.equal(red, batch.picture_index)
    assert batch.names == tuple(f"{i}.png" for i in batch.picture_index.tolist())
    assert torch.equal(batch.token_ids[:, 0], 1 + batch.picture_index % 3)
    assert batch.pixels.dtype == torch.float32
    assert (batch.pixels.min().item(), batch.pixels.max().item()) == (-1.0, 1.0)


def test_flip_mirrors_half_of_the_samples() -> None:
    flipped = make(flip=True).__getitems__(range(400)).pixels
    plain = make(flip=False).__getitems__(range(400)).pixels
    mirrored = (flipped == plain.flip(-1)).flatten(1).all(dim=1)
    same = (flipped == plain).flatten(1).all(dim=1)
    assert (mirrored ^ same).all()
    assert 160 < mirrored.sum() < 240  # four standard deviations of a fair coin


def test_caption_dropout_gives_the_empty_caption() -> None:
    batch = make(caption_dropout=0.25).__getitems__(range(400))
    dropped = (batch.token_ids == 0).all(dim=1)
    assert 65 < dropped.sum() < 135  # four standard deviations
    assert torch.equal(batch.token_ids[~dropped, 0], 1 + batch.picture_index[~dropped] % 3)
    assert (make(caption_dropout=1.0).__getitems__(range(9)).token_ids == 0).all()


def test_center_and_random_crop() -> None:
    wide = Stripes(1, size=(64, 16))  # black left, white right
    center = PictureDataset(wide, tokenize, resolution=16, crop="center")[0].pixels
    assert (center[..., 0, :8] == -1).all()
    assert (center[..., 0, 8:] == 1).all()
    random = PictureDataset(wide, tokenize, resolution=16, crop="random")
    means = random.__getitems__(range(50)).pixels.mean(dim=(1, 2, 3))
    assert means.min() == -1.0
    assert means.max() == 1.0


def test_sources_of_any_size_are_resized() -> None:
    for size in ((100, 40), (9, 9), (16, 16)):
        dataset = PictureDataset(Stripes(1, size), tokenize, resolution=16)
        assert dataset[0].pixels.shape == (1, 3, 16, 16)


def test_batch_moves_and_keeps_none() -> None:
    batch = make(2).__getitems__([0, 1])
    moved = batch.to("meta")
    assert moved.pixels.device.type == moved.token_ids.device.type == "meta"
    assert moved.moments is None
    assert moved.names == batch.names
    assert len(moved) == 2
    assert collate(batch) is batch


def test_one_picture_is_enough_and_copies_agree() -> None:
    assert make(1).__getitems__(range(3)).picture_index.tolist() == [0, 0, 0]
    dataset = make(flip=True)
    copy: PictureDataset = pickle.loads(pickle.dumps(dataset))
    theirs: Batch = copy.__getitems__(range(9))
    assert torch.equal(theirs.pixels, dataset.__getitems__(range(9)).pixels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 0}, r"data\.resolution=0"),
        ({"crop": "top"}, r"data\.crop='top'.*center, random"),
        ({"caption_dropout": 1.5}, r"data\.caption_dropout=1\.5"),
        ({"caption_dropout": float("nan")}, r"data\.caption_dropout=nan"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**change)
