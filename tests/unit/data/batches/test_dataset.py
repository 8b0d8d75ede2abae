"""Batches of the stream: pixels, caption and name of one picture, all by the sample's index."""

import pickle
from dataclasses import replace

import pytest
import torch

from sdlora.data.batches.dataset import Batch
from sdlora.data.captions.recipe import sample_caption
from sdlora.data.pictures.cuts import Geometry, size_conditioning
from tests.configs import captions_config
from tests.unit.data.stripes import Stripes, batches, dataset, joined


def test_picture_caption_and_name_stay_together() -> None:
    for batch in batches(dataset(Stripes(7)), 6):
        assert batch.pixels is not None
        red = ((batch.pixels[:, 0, 8, 2] + 1) * 127.5).round().long()
        assert torch.equal(red, batch.picture_index)
        assert batch.names == tuple(f"{i}.png" for i in batch.picture_index.tolist())
        assert torch.equal(batch.token_ids[:, 0], 1 + batch.picture_index % 3)
        assert batch.pixels.dtype == torch.float32
        assert (batch.pixels.min().item(), batch.pixels.max().item()) == (-1.0, 1.0)


def test_a_batch_has_one_size_and_each_picture_its_bucket() -> None:
    source = Stripes(9, sizes=((16, 16), (32, 16)))
    shown = batches(dataset(source, bucket=None), 2 * 3)  # 5 squares and 4 wide ones: 2 + 1
    for batch in shown:
        assert batch.pixels is not None
        sizes = {source.pictures[i].size for i in batch.picture_index.tolist()}
        assert sizes == {(batch.pixels.shape[3], batch.pixels.shape[2])}
    assert sorted(joined(shown, "picture_index").tolist()) == sorted([*range(9), *range(9)])


def test_short_batches_weigh_by_their_samples() -> None:
    shown = batches(dataset(Stripes(7), batch_size=4), 2, window=2)
    by_size = {len(batch): batch.share for batch in shown}
    assert by_size == {4: 4 / 3.5, 3: 3 / 3.5}


def test_flip_mirrors_half_of_the_samples() -> None:
    flipped = joined(batches(dataset(Stripes(40), flip=True), 100), "pixels")
    plain = joined(batches(dataset(Stripes(40), flip=False), 100), "pixels")
    mirrored = (flipped == plain.flip(-1)).flatten(1).all(dim=1)
    same = (flipped == plain).flatten(1).all(dim=1)
    assert (mirrored ^ same).all()
    assert 160 < mirrored.sum() < 240  # 400 samples: four standard deviations of a fair coin


def test_caption_dropout_gives_the_empty_caption() -> None:
    shown = batches(dataset(Stripes(40), captions={"dropout": 0.25}), 100)
    ids, pictures = joined(shown, "token_ids"), joined(shown, "picture_index")
    dropped = (ids == 0).all(dim=1)
    assert 65 < dropped.sum() < 135  # four standard deviations
    assert torch.equal(ids[~dropped, 0], 1 + pictures[~dropped] % 3)


def test_captions_that_vary_are_those_of_the_recipe() -> None:
    varied = {"wildcards": True, "dropout": 0.2}
    source = Stripes(5)
    source.pictures = [replace(picture, text="a {1|2}") for picture in source.pictures]
    data = dataset(source, captions=varied)
    assert data.captions.texts == ("",)
    recipe, seen = captions_config(**varied), set()
    for batch in batches(data, 10):
        expected = [
            sample_caption(recipe, data.source.pictures[picture].text, "", 0, sample)
            for picture, sample in zip(
                batch.picture_index.tolist(), batch.sample_index.tolist(), strict=True
            )
        ]
        tokens = [1 + int(text[-1]) if text else 0 for text in expected]
        assert batch.token_ids[:, 0].tolist() == tokens
        seen |= set(tokens)
    assert seen == {0, 2, 3}


def test_center_and_random_cut() -> None:
    wide = Stripes(1, sizes=((64, 16),))  # black left, white right
    center = dataset(wide)[0, 1].pixels
    assert center is not None
    assert (center[..., 0, :8] == -1).all()
    assert (center[..., 0, 8:] == 1).all()
    means = joined(batches(dataset(wide, crop="random"), 50), "pixels").mean(dim=(1, 2, 3))
    assert means.min() == -1.0
    assert means.max() == 1.0


def test_masks_follow_cut_flip_and_weight() -> None:
    source = Stripes(3, sizes=((32, 16),), mask_content="m")
    source.pictures[1] = type(source.pictures[1])(
        name="1.png", size=(32, 16), text="caption 1", content="1"
    )
    shown = batches(dataset(source, batch_size=3, flip=True, mask_weight=0.25), 8)
    for batch in shown:
        assert batch.mask is not None
        assert batch.pixels is not None
        assert batch.mask.shape == (3, 1, 4, 4)
        for picture, mask, pixels in zip(
            batch.picture_index.tolist(), batch.mask, batch.pixels, strict=True
        ):
            if picture == 1:
                assert (mask == 1).all()
                continue
            dark = pixels[1, 8, ::4] < 0  # the masked-in half is the dark one
            assert torch.equal(mask[0, 2] == 1, dark)
            assert torch.equal(mask[0, 2] == 0.25, ~dark)


def test_weights_are_the_pictures_own() -> None:
    batch = dataset(Stripes(2, loss_weight=0.5))[0, 1]
    assert batch.weights.tolist() == [0.5, 0.5]
    assert batch.mask is None


def test_a_batch_moves_and_its_indices_stay() -> None:
    batch = dataset(Stripes(2))[0, 1]
    moved = batch.to(torch.device("meta"))
    assert moved.pixels is not None
    assert moved.pixels.device.type == moved.token_ids.device.type == "meta"
    assert moved.sample_index.device.type == "cpu"
    assert moved.moments is None
    assert moved.names == batch.names
    assert len(moved) == 2


def test_copies_in_other_processes_agree() -> None:
    data = dataset(Stripes(5), flip=True, crop="random")
    theirs: list[Batch] = batches(pickle.loads(pickle.dumps(data)), 6)
    assert torch.equal(joined(theirs, "pixels"), joined(batches(data, 6), "pixels"))


@pytest.mark.parametrize("first", [0, 3, 7])
def test_any_batch_can_be_the_first(first: int) -> None:
    whole = batches(dataset(Stripes(5), flip=True), 10)
    batch = dataset(Stripes(5), flip=True)[first, 1]
    assert torch.equal(batch.sample_index, whole[first].sample_index)
    assert torch.equal(batch.pixels, whole[first].pixels)  # type: ignore[arg-type]


def test_sizes_that_sdxl_is_told_by_hand() -> None:
    # 200 x 100 pixels, cut to a square of 64: resized to 128 x 64, and 40 of the 64 spare pixels
    # are left of the cut
    cut = Geometry(bucket=(64, 64), crop=(62.5, 0.0, 162.5, 100.0))
    whole = Geometry(bucket=(96, 48), crop=(0.0, 0.0, 200.0, 100.0))
    flipped = torch.tensor([False, True, True])
    found = size_conditioning([(200, 100)] * 3, [cut, cut, whole], flipped)
    assert found.tolist() == [
        [100, 200, 0, 40, 64, 64],
        [100, 200, 0, 24, 64, 64],  # mirrored, the other 24 are
        [100, 200, 0, 0, 48, 96],
    ]
    assert size_conditioning([], [], flipped[:0]).shape == (0, 6)
