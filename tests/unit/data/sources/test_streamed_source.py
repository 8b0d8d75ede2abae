"""A streamed set gives each row once, in an order that seed and epoch decide, from any start."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from torch.utils.data import DataLoader, IterableDataset

from sdlora.data.sources.picture_source import DataError
from sdlora.data.sources.streamed_source import StreamedSource
from tests.unit.data.hub_sets import SIZE, hub_set, png, rows, shade, write_folder, write_parquet

COUNT = 35


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    # after each epoch datasets waits so long for threads of an older pyarrow to end
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven files of five rows each."""
    for file in range(7):
        write_parquet(tmp_path / "set" / f"train-{file}.parquet", rows(5, 5 * file))
    return tmp_path / "set"


def stream(path: Path, seed: int = 0, **options: Any) -> StreamedSource:
    return StreamedSource(hub_set(path), **{"seed": seed, "shuffle_buffer": 8, **options})


def texts(source: StreamedSource, epoch: int, start: int = 0) -> list[str]:
    return [sample.picture.text for sample in source.samples(epoch, start)]


def test_each_row_comes_once_with_its_picture(folder: Path) -> None:
    samples = list(stream(folder).samples(epoch=0))
    assert sorted(s.picture.text for s in samples) == sorted(f"number {n}" for n in range(COUNT))
    for place, sample in enumerate(samples):
        number = int(sample.picture.text.split()[1])
        assert sample.image.mode == "RGB"
        assert sample.image.getpixel((3, 3)) == shade(number)
        assert sample.picture.size == SIZE
        assert sample.picture.name == f"row {place} of epoch 0 ({number}.png)"
        assert sample.next_start == place + 1


def test_order_is_a_function_of_seed_and_epoch(folder: Path) -> None:
    orders = {
        (seed, epoch): texts(stream(folder, seed), epoch) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    used = stream(folder)
    texts(used, 1, 3)  # what was read before changes nothing
    assert texts(used, 0) == orders[0, 0]
    assert texts(used, 1) == orders[0, 1]


@pytest.mark.parametrize("epoch", [0, 1, 2])
@pytest.mark.parametrize("start", [1, 7, 16, 34, 35, 50])
def test_a_resumed_epoch_goes_on_with_the_next_row(folder: Path, epoch: int, start: int) -> None:
    assert texts(stream(folder), epoch, start) == texts(stream(folder), epoch)[start:]


def test_a_buffer_of_one_reads_rows_as_they_lie(folder: Path) -> None:
    in_order = [f"number {n}" for n in range(COUNT)]
    assert texts(stream(folder, shuffle_buffer=1), 0) == in_order
    assert texts(stream(folder, seed=1, shuffle_buffer=1), 1, 12) == in_order[12:]


def test_rows_are_counted_where_the_set_does_not_say_it(folder: Path, tmp_path: Path) -> None:
    assert stream(folder).num_rows == COUNT
    datasets.Dataset.from_list(rows(4)).save_to_disk(tmp_path / "saved")
    assert stream(tmp_path / "saved").num_rows == 4
    pictures = write_folder(tmp_path / "pictures", {"a.png": "one", "b.png": "two"})
    assert stream(pictures).num_rows == 2


CARD = """---
dataset_info:
  features:
  - {name: image, dtype: image}
  - {name: text, dtype: string}
  splits:
  - {name: train, num_bytes: 1, num_examples: 36}
---
"""


def test_a_set_that_says_a_wrong_number_of_rows_is_refused(folder: Path) -> None:
    (folder / "README.md").write_text(CARD)
    source = stream(folder)
    assert source.num_rows == COUNT + 1  # as the card says; rows are not read for it
    with pytest.raises(DataError, match="says that it has 36 rows, but has 35"):
        texts(source, 0)


def test_local_folders_and_saved_sets_stream_too(tmp_path: Path) -> None:
    pictures = write_folder(tmp_path / "pictures", {"a.png": "one", "b.png": "two"})
    assert sorted(texts(stream(pictures), 0)) == ["one", "two"]
    datasets.Dataset.from_list(rows(4)).save_to_disk(tmp_path / "saved")
    assert sorted(texts(stream(tmp_path / "saved"), 0)) == [f"number {n}" for n in range(4)]


def bad_rows(path: Path) -> Path:
    truncated = png(size=(300, 300))[:-200]
    records = rows(9)
    records[2]["image"] = {"bytes": b"no picture", "path": "bad.png"}
    records[5]["text"] = None
    records[7]["image"] = {"bytes": truncated, "path": "cut.png"}  # its header is sound
    return write_parquet(path, records)


def test_a_row_that_cannot_be_used_stops_the_stream_by_name(tmp_path: Path) -> None:
    source = stream(bad_rows(tmp_path / "a.parquet"))
    with pytest.raises(DataError, match=r"row \d of epoch 0 .*data\.on_error=skip skips such rows"):
        texts(source, 0)


def test_rows_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = bad_rows(tmp_path / "a.parquet")
    source = stream(path, on_error="skip")
    samples = list(source.samples(0))
    assert sorted(s.picture.text for s in samples) == [f"number {n}" for n in (0, 1, 3, 4, 6, 8)]
    assert source.num_passed_over == 3
    assert sorted((f.kind, f.name.partition("(")[2]) for f in source.findings) == [
        ("no_caption", "5.png)"),
        ("unreadable", "bad.png)"),
        ("unreadable", "cut.png)"),
    ]
    for taken in range(len(samples)):  # rows that were passed over are counted in next_start
        rest = list(stream(path, on_error="skip").samples(0, samples[taken].next_start))
        assert [s.picture.name for s in rest] == [s.picture.name for s in samples[taken + 1 :]]


def test_a_stream_without_any_usable_row_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"image": b"no", "text": "x"}] * 3)
    source = stream(path, on_error="skip")
    with pytest.raises(DataError, match="no row can be used"):
        texts(source, 0)
    assert source.num_passed_over == 3


def test_a_file_that_breaks_off_is_an_error_of_the_set(folder: Path) -> None:
    source = stream(folder)
    (folder / "train-3.parquet").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"data\.root=.*data\.hub\.split=train: "):
        texts(source, 0)


def test_files_that_do_not_say_their_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("image,text\na.png,x\n")
    with pytest.raises(DataError, match="convert the set to parquet"):
        stream(tmp_path / "set")


class Texts(IterableDataset[str]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[str]:
        return iter(texts(stream(self.path), 1))


def test_a_loader_worker_sees_the_whole_stream(folder: Path) -> None:
    order = texts(stream(folder), 1)
    assert list(DataLoader(Texts(folder), batch_size=None, num_workers=0)) == order
    assert list(DataLoader(Texts(folder), batch_size=None, num_workers=1)) == order
