"""Options that each work alone, two or three at a time: on batches and streams of them."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from sdlora.config.data import RootConfig
from sdlora.data.batches.datamodule import CaptionDataModule
from sdlora.data.batches.dataset import Batch, PictureDataset
from sdlora.data.batches.streamed_batches import StreamedBatches
from sdlora.data.captions.set_captions import SetCaptions
from sdlora.data.pictures.buckets import bucket_sizes
from sdlora.data.selection.picture_set import whole_set
from sdlora.data.sources.folder_source import FolderSource
from sdlora.data.sources.streamed_source import StreamedSource
from tests.configs import data_config
from tests.unit.data.hub_sets import hub_set, rows, write_parquet
from tests.unit.data.stripes import tokenize

RANDOM = {"crop": "random", "cache": {"mode": "off"}}


def dataset(roots: list[RootConfig], **settings: Any) -> PictureDataset:
    data = data_config(**{"resolution": 32, "batch_size": 4, **settings})
    source = FolderSource(roots)
    assert not source.findings
    pictures = whole_set(source, data, bucket_sizes(data.buckets, data.resolution, 8), 8)
    captions = SetCaptions(source.pictures, data.captions, tokenize, 7)
    return PictureDataset(pictures, captions, data, seed=7, latent_scale=4)


def write(folder: Path, **sizes: tuple[int, int]) -> RootConfig:
    folder.mkdir()
    for number, (name, size) in enumerate(sizes.items()):
        Image.new("RGB", size, (9 * number, 99, 0)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"picture {number}", "utf-8")
    return RootConfig(path=str(folder))


def at(module: CaptionDataModule, step: int, rank: int = 0, devices: int = 1) -> Iterator[Batch]:
    """The batches of a process that stands at this step."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=step, global_rank=rank, world_size=devices, strategy=strategy
    )
    return iter(module.train_dataloader())


@pytest.mark.parametrize("flip", [False, True])
def test_a_mask_is_cut_and_mirrored_at_random_as_its_picture_is(flip: bool, tmp_path: Path) -> None:
    """The mask is as bright as the picture, so it tells where both were cut."""
    root = write(tmp_path / "set", a=(32, 32))
    ramp = Image.linear_gradient("L").rotate(90).resize((96, 32))
    ramp.convert("RGB").save(tmp_path / "set/a.png")
    ramp.save(tmp_path / "set/a.mask.png")
    root.repeats = 16
    lefts = set()
    for number in range(4):
        batch = dataset([root], flip=flip, **RANDOM)[number, 1]
        assert batch.pixels is not None
        assert batch.mask is not None
        assert batch.sizes is not None
        bright = torch.nn.functional.avg_pool2d((batch.pixels[:, :1] + 1) / 2, 4)
        # the picture is resampled by another filter than the mask; a cut elsewhere is 0.3 off
        torch.testing.assert_close(batch.mask, bright, rtol=0, atol=0.02)
        lefts |= set(batch.sizes[:, 3].tolist())
    assert len(lefts) > 4


def test_flips_and_dropped_captions_are_drawn_apart(tmp_path: Path) -> None:
    root = write(tmp_path / "set", a=(32, 32))
    halves = Image.new("RGB", (32, 32), "black")
    halves.paste("white", (0, 0, 16, 32))
    halves.save(tmp_path / "set/a.png")
    root.repeats = 64
    dropout = {"dropout": 0.5}

    def seen(**settings: Any) -> list[tuple[bool, bool]]:
        """Whether each sample is mirrored, and without its caption."""
        data = dataset([root], **RANDOM, **settings)
        empty = tokenize([""])[0]
        found = []
        for number in range(data.plan.batches_per_epoch):
            batch = data[number, 1]
            assert batch.pixels is not None
            mirrored = batch.pixels[:, 0, 0, 0] < 0
            bare = (batch.token_ids == empty).all(dim=1)
            found += list(zip(mirrored.tolist(), bare.tolist(), strict=True))
        return found

    both = seen(flip=True, captions=dropout)
    assert set(Counter(both)) == {(m, d) for m in (False, True) for d in (False, True)}
    assert min(Counter(both).values()) > 6  # of 64; 16 are expected
    assert [m for m, _ in both] == [m for m, _ in seen(flip=True)]
    assert [d for _, d in both] == [d for _, d in seen(captions=dropout)]


def test_buckets_with_repeats_go_on_where_they_stopped(tmp_path: Path) -> None:
    few = write(tmp_path / "few", wide=(96, 32), high=(32, 96), square=(64, 64))
    many = write(tmp_path / "many", wide=(96, 32), other=(64, 64))
    few.repeats = 3
    buckets = {"mode": "auto", "min_side": 16, "max_side": 64}
    module = CaptionDataModule(
        dataset([few, many], buckets=buckets, batch_size=2), accumulate_grad_batches=2
    )

    def names(batches: Iterator[Batch], count: int) -> list[tuple[str, ...]]:
        return [batch.names for batch in islice(batches, count)]

    whole = names(at(module, 0), 24)
    for step in (1, 3, 5):
        assert names(at(module, step), 24 - 2 * step) == whole[2 * step :]
    plan = module.dataset.plan  # type: ignore[union-attr]
    epoch = Counter(name for batch in whole[: plan.batches_per_epoch] for name in batch)
    assert epoch == {
        **{f"few/{name}.png": 3 for name in ("wide", "high", "square")},
        **{f"many/{name}.png": 1 for name in ("wide", "other")},
    }
    bucket = {"wide": "wide", "high": "high", "square": "square", "other": "square"}
    for batch in whole:
        assert len({bucket[Path(name).stem] for name in batch}) == 1


def test_a_stream_on_several_devices_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    write_parquet(tmp_path / "set/train-0.parquet", rows(14))
    hub = {"streaming": True, "shuffle_buffer": 4}
    data = data_config(
        source="hub", root="set", resolution=32, batch_size=2, hub=hub, cache={"mode": "off"}
    )

    def module() -> CaptionDataModule:
        source = StreamedSource(hub_set(tmp_path / "set"), seed=3, shuffle_buffer=4)
        return CaptionDataModule(StreamedBatches(source, data, 3, tokenize), 0, 2)

    def taken(step: int, count: int, rank: int = 0, devices: int = 1) -> list[list[int]]:
        batches = islice(at(module(), step, rank, devices), count)
        return [batch.sample_index.tolist() for batch in batches]

    alone = taken(0, 16)  # more than two epochs of 7 batches
    assert alone == [[2 * number, 2 * number + 1] for number in range(16)]
    for step in (0, 2, 3):  # on two devices a step takes 2 x 2 batches
        for rank in (0, 1):
            expected = alone[4 * step + rank :: 2]
            assert taken(step, len(expected), rank, devices=2) == expected
