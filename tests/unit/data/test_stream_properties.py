"""From random folders to batches: whatever the settings, nothing is lost, doubled or reordered."""

import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from sdlora.config.data import RootConfig
from sdlora.data.batches.datamodule import CaptionDataModule
from sdlora.data.batches.dataset import PictureDataset
from sdlora.data.captions.set_captions import SetCaptions
from sdlora.data.pictures.buckets import bucket_sizes
from sdlora.data.selection.picture_set import whole_set
from sdlora.data.sources.folder_source import FolderSource
from tests.configs import data_config
from tests.unit.data.stripes import tokenize


def random_roots(folder: Path, draw: random.Random) -> list[RootConfig]:
    roots = []
    for number in range(draw.randrange(1, 4)):
        root = folder / f"root {number}"
        for picture in range(draw.randrange(1, 9)):
            path = root / draw.choice([".", "deeper"]) / f"{picture}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (draw.randrange(16, 80), draw.randrange(16, 80))
            Image.new("RGB", size, (number, picture, 0)).save(path)
            path.with_suffix(".txt").write_text(f"caption {picture}", "utf-8")
        roots.append(RootConfig(path=str(root), repeats=draw.choice([1, 2, 3])))
    return roots


def stream(folder: Path, seed: int) -> PictureDataset:
    draw = random.Random(seed)
    source = FolderSource(random_roots(folder, draw))
    assert not source.findings
    buckets = {"mode": "auto", "min_side": 16, "max_side": 64, "max_aspect": draw.uniform(1, 4)}
    data = data_config(
        resolution=32,
        buckets=buckets,
        batch_size=draw.randrange(1, 6),
        captions={"dropout": 0.2},
        flip=True,
        crop="random",
        cache={"mode": "off"},
    )
    pictures = whole_set(source, data, bucket_sizes(data.buckets, data.resolution, 8), 8)
    captions = SetCaptions(source.pictures, data.captions, tokenize, seed)
    return PictureDataset(pictures, captions, data, seed=seed, latent_scale=4)


def shown(data: PictureDataset, count: int, num_workers: int = 0) -> list[tuple[int, str]]:
    """Sample index and name of everything in the first batches of a loader."""
    loader = CaptionDataModule(data, num_workers=num_workers).train_dataloader()
    return [
        pair
        for batch in islice(loader, count)
        for pair in zip(batch.sample_index.tolist(), batch.names, strict=True)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_each_epoch_yields_every_sample_exactly_as_often_as_it_repeats(
    seed: int, tmp_path: Path
) -> None:
    data = stream(tmp_path, seed)
    epochs = 3
    pairs = shown(data, epochs * data.plan.batches_per_epoch)
    assert [index for index, _ in pairs] == list(range(epochs * data.num_samples))
    wanted = Counter({picture.name: picture.repeats for picture in data.source.pictures})
    for epoch in range(epochs):
        own = pairs[epoch * data.num_samples : (epoch + 1) * data.num_samples]
        assert Counter(name for _, name in own) == wanted


@pytest.mark.parametrize("seed", [0, 1])
def test_workers_and_another_start_change_nothing(seed: int, tmp_path: Path) -> None:
    data = stream(tmp_path, seed)
    count = 2 * data.plan.batches_per_epoch
    whole = shown(data, count)
    assert shown(data, count, num_workers=2) == whole
    for first in (1, data.plan.batches_per_epoch // 2, data.plan.batches_per_epoch + 1):
        rest = [data[number, 1] for number in range(first, count)]
        pairs = [
            pair
            for batch in rest
            for pair in zip(batch.sample_index.tolist(), batch.names, strict=True)
        ]
        assert pairs == whole[len(whole) - len(pairs) :]
