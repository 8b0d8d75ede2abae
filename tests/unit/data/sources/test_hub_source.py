"""Rows of a Hugging Face set become pictures, and what they lack is said by row."""

import hashlib
import io
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants
from PIL import Image

from sdlora.data.pictures.picture import WARNING
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.sources.hub_rows import HubRows
from sdlora.data.sources.hub_source import HubSource
from sdlora.data.sources.picture_source import DataError
from tests.unit.data.hub_sets import SIZE, hub_set, png, rows, shade, write_folder, write_parquet


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def opened(path: Path, **options: Any) -> HubSource:
    return HubSource(hub_set(path, **options))


def reasons(source: HubSource) -> list[tuple[str, str, str]]:
    return [(finding.name, finding.kind, finding.reason) for finding in source.findings]


def assert_numbered(source: HubSource, count: int) -> None:
    assert [p.name for p in source.pictures] == [f"row {n}" for n in range(count)]
    assert [p.text for p in source.pictures] == [f"number {n}" for n in range(count)]
    assert {p.size for p in source.pictures} == {SIZE}
    for n, picture in enumerate(source.pictures):
        assert picture.content == hashlib.sha256(png(shade(n))).hexdigest()
        image = source.image(n)
        assert (image.mode, image.size, image.getpixel((5, 5))) == ("RGB", SIZE, shade(n))
        assert source.mask(n) is None
    assert source.findings == []


def test_parquet_files_of_a_folder(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "train-0.parquet", rows(20))
    write_parquet(tmp_path / "set" / "train-1.parquet", rows(5, 20))
    write_parquet(tmp_path / "set" / "test-0.parquet", rows(3, 100))
    assert_numbered(opened(tmp_path / "set"), 25)
    assert [p.text for p in opened(tmp_path / "set", split="test").pictures] == [
        "number 100",
        "number 101",
        "number 102",
    ]
    assert len(opened(tmp_path / "set", split="train[:20%]").pictures) == 5


def test_a_parquet_file(tmp_path: Path) -> None:
    source = opened(write_parquet(tmp_path / "a.parquet", rows(3)))
    assert_numbered(source, 3)
    assert source.notes == []


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", rows(3))
    assert_numbered(opened(path), 3)
    write_parquet(path, rows(4))
    assert_numbered(opened(path), 4)


def test_what_datasets_saved(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(rows(3)).cast_column("image", datasets.Image())
    table.with_format("numpy").save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"a": table, "b": table.select([0])}).save_to_disk(tmp_path / "dict")
    assert_numbered(opened(tmp_path / "plain"), 3)
    assert_numbered(opened(tmp_path / "dict", split="a"), 3)
    assert_numbered(opened(tmp_path / "dict", split="b"), 1)
    assert_numbered(opened(next((tmp_path / "plain").glob("*.arrow"))), 3)
    with pytest.raises(DataError, match=r"data\.hub\.split=train: .* has the splits a, b"):
        opened(tmp_path / "dict")
    with pytest.raises(DataError, match=r"data\.hub\.split=train\[:1\]: .* has the splits train"):
        opened(tmp_path / "plain", split="train[:1]")


def test_a_folder_of_pictures_with_metadata(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"b.png": "blue", "a.png": "red\nrose"})
    source = opened(folder)
    assert [(p.name, p.text, p.size) for p in source.pictures] == [
        ("row 0", "blue", SIZE),
        ("row 1", "red\nrose", SIZE),
    ]
    assert source.notes == []


def test_metadata_that_misses_a_picture_or_names_a_missing_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"a.png": "red", "b.png": "blue"})
    (folder / "b.png").unlink()
    (folder / "stray.png").write_bytes(png())
    source = opened(folder)
    assert [p.text for p in source.pictures] == ["red"]
    assert reasons(source) == [
        (
            "row 1",
            "unreadable",
            "names the file b.png, which cannot be read; add it or remove the row",
        )
    ]
    assert source.notes == ["1 pictures that no row of split train names: stray.png"]
    (folder / "a.png").unlink()  # after the start
    with pytest.raises(DataError, match=r"row 0: could be read at the start.*a\.png"):
        source.image(0)
    (folder / "a.png").write_bytes(png("lime"))
    with pytest.raises(DataError, match="row 0: was changed since"):
        source.image(0)


@pytest.mark.parametrize("name", ["../a.png", "https://example.org/a.png"])
def test_metadata_that_points_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "set", {"a.png": "red"})
    metadata = folder / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("a.png", name))
    with pytest.raises(DataError, match=r"data\.root=.*Invalid metadata file_name"):
        opened(folder)


def test_an_archive_of_pictures(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "files", {"a.png": "red", "b.png": "blue"})
    (tmp_path / "set").mkdir()
    with zipfile.ZipFile(tmp_path / "set" / "all.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    source = opened(tmp_path / "set")
    assert [(p.text, p.size) for p in source.pictures] == [("red", SIZE), ("blue", SIZE)]
    assert source.image(1).getpixel((0, 0)) == (255, 0, 0)


def test_archives_of_numbered_files(tmp_path: Path) -> None:
    """As WebDataset keeps them: files of one name and several endings are a row."""
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "train-0.tar", "w") as archive:
        for number in range(3):
            for ending, data in (("png", png(shade(number))), ("txt", f"number {number}".encode())):
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    source = opened(tmp_path / "set")
    assert_numbered(source, 3)
    assert source.notes == ["columns that are not read: __key__, __url__"]


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (png(), "image bytes"),
        ({"bytes": png(), "path": None}, "record"),
        ({"path": "deep/a.png"}, "record of a relative path"),
        ("deep/a.png", "relative path"),
    ],
)
def test_pictures_are_stored_in_many_ways(tmp_path: Path, cell: object, kind: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").write_bytes(png())
    path = write_parquet(tmp_path / "a.parquet", [{"image": cell, "text": "red"}])
    (picture,) = opened(path).pictures
    assert (picture.size, picture.content) == (SIZE, hashlib.sha256(png()).hexdigest()), kind


def test_every_fault_of_every_row_is_found(tmp_path: Path) -> None:
    good = {"bytes": png(), "path": None}

    def stored(data: bytes | None = None, path: str | None = None) -> dict[str, object]:
        return {"bytes": data, "path": path}

    records = [
        {"image": good, "text": "fine"},
        {"image": None, "text": "no picture"},
        {"image": stored(), "text": "none either"},
        {"image": stored(b""), "text": "empty"},
        {"image": stored(b"no picture"), "text": "bytes"},
        {"image": stored(path="https://example.org/a.png"), "text": "address"},
        {"image": stored(path="zip://a.png::https://example.org/a.zip"), "text": "address"},
        {"image": stored(path="file:///etc/passwd"), "text": "address"},
        {"image": stored(path="no\0such.png"), "text": "path"},
        {"image": good, "text": None},
        {"image": good, "text": " \n"},
        {"image": good, "text": "a<|endoftext|>"},
        {"image": stored(b"x"), "text": "a\0b"},
        {"image": good, "text": "fine too"},
    ]
    source = opened(write_parquet(tmp_path / "a.parquet", records))
    assert [(p.name, p.text) for p in source.pictures] == [
        ("row 0", "fine"),
        ("row 13", "fine too"),
    ]
    assert source.image(1).size == SIZE
    found = [(name, kind) for name, kind, _ in reasons(source)]
    assert found == [
        *((f"row {n}", "unreadable") for n in range(1, 9)),
        ("row 9", "no_caption"),
        ("row 10", "no_caption"),
        ("row 11", "bad_caption"),
        ("row 12", "unreadable"),
        ("row 12", "bad_caption"),
    ]
    assert str(source.findings[0]) == "row 1: holds no picture; fill the cell or remove the row"
    assert "names the address https://example.org/a.png" in source.findings[4].reason
    assert "set data.captions.default" in source.findings[8].reason


def saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def test_transparency_lies_over_a_colour_or_masks(tmp_path: Path) -> None:
    image = Image.new("RGBA", SIZE, (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 20, 30))
    records = [{"image": saved(image, format="PNG"), "text": "half"}, *rows(1)]
    records[1]["image"] = png()
    of_rows = hub_set(write_parquet(tmp_path / "a.parquet", records))
    source = HubSource(of_rows, background="#0000ff", alpha_is_mask=True)
    assert [p.has_mask for p in source.pictures] == [True, False]
    assert source.image(0).getpixel((5, 5)) == (0, 0, 255)
    mask = source.mask(0)
    assert mask is not None
    assert (mask.mode, mask.getpixel((5, 5)), mask.getpixel((30, 5))) == ("L", 0, 255)
    assert source.mask(1) is None
    assert [p.has_mask for p in HubSource(of_rows).pictures] == [False, False]


def test_an_animation_is_named(tmp_path: Path) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue")]
    data = saved(frames[0], format="GIF", save_all=True, append_images=frames[1:])
    source = opened(write_parquet(tmp_path / "a.parquet", [{"image": data, "text": "x"}]))
    assert source.image(0).getpixel((0, 0)) == (255, 0, 0)
    assert [(f.kind, f.severity) for f in source.findings] == [("animated", WARNING)]
    assert source.pictures[0].file_bytes == len(data)


def test_a_default_caption_serves_rows_and_sets_without_one(tmp_path: Path) -> None:
    records = [{"image": png(), "text": None}, {"image": png(), "text": "own"}]
    path = write_parquet(tmp_path / "a.parquet", records)
    source = opened(path, default_caption="")
    assert [p.text for p in source.pictures] == ["", "own"]
    bare = write_parquet(tmp_path / "b.parquet", [{"image": png(), "label": 3}])
    source = opened(bare, default_caption="a style")
    assert [p.text for p in source.pictures] == ["a style"]
    assert source.notes == ["columns that are not read: label"]


def test_a_list_of_captions_is_lines(tmp_path: Path) -> None:
    records = [
        {"img": png(), "captions": ["a man", "a hat\n", None]},
        {"img": png(), "captions": []},
    ]
    source = opened(write_parquet(tmp_path / "a.parquet", records))
    assert [p.text for p in source.pictures] == ["a man\na hat"]
    assert [finding.kind for finding in source.findings] == ["no_caption"]


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        (
            {"image": b"", "text": "", "Caption": "", "label": 1},
            {},
            r"caption_column: text, Caption could be it; name one of image \(pictures\), "
            r"text \(text\), Caption \(text\), label \(int64\)",
        ),
        ({"image": b"", "img": b"", "text": ""}, {}, "image_column: image, img could be it"),
        ({"a": b"", "b": b"", "text": ""}, {}, "image_column: 2 columns could be it"),
        ({"a": 1, "text": ""}, {}, r"0 columns .* a \(int64\), text \(text\) .*data=folder"),
        ({"image": b"", "words": ""}, {}, r"caption_column: none of .*words.*captions\.default"),
        ({"image": b"", "text": 1}, {}, "caption_column: none of"),
        ({"image": b"", "text": ""}, {"image_column": "x"}, "image_column=x: is not there"),
        (
            {"image": b"", "text": "", "label": 1},
            {"caption_column": "label"},
            "caption_column=label: holds int64, not text; the columns are image",
        ),
        ({"image": b"", "text": ""}, {"image_column": "text", "caption_column": "image"}, "holds"),
        ({"image": [b""], "text": ""}, {"image_column": "image"}, "holds list of pictures, not"),
    ],
)
def test_columns_that_do_not_fit(
    tmp_path: Path, record: dict[str, Any], options: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        opened(write_parquet(tmp_path / "a.parquet", [record]), **options)


def test_columns_of_other_names(tmp_path: Path) -> None:
    record = {"scan": png(), "image": png("blue"), "text": "no", "title": "yes"}
    path = write_parquet(tmp_path / "a.parquet", [record])
    (picture,) = opened(path, image_column="scan", caption_column="title").pictures
    assert (picture.text, picture.content) == ("yes", hashlib.sha256(png()).hexdigest())
    only = write_parquet(tmp_path / "b.parquet", [{"scan": png(), "text": "the only pictures"}])
    assert len(opened(only).pictures) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"data\.root=.*nowhere: is neither an id OWNER/NAME"),
        ("notes.txt", "is neither"),
        ("empty", "doesn't contain any data files"),
        ("broken.parquet", "Parquet magic bytes not found"),
        ("script", "scripts are no longer supported"),
        ("none.parquet", 'Instruction "train" corresponds to no data'),
        ("none", r"list index out of range \(IndexError\)"),  # what datasets makes of no rows
    ],
)
def test_sets_that_cannot_be_read(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"not parquet at all")
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('was run')")
    table = datasets.Dataset.from_list(rows(1)).select([])
    table.to_parquet(tmp_path / "none.parquet")
    datasets.Dataset.from_dict({"image": [], "text": []}).save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match=message):
        opened(tmp_path / name)


@pytest.mark.parametrize("identity", ["parquet", "csv", "../up", "a/b/c", "https://example.org/x"])
def test_what_is_no_id_is_not_looked_for(identity: str) -> None:
    with pytest.raises(DataError, match="is neither an id OWNER/NAME"):
        HubSource(hub_set(identity))


def test_offline_the_hub_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root=someone/portraits.*Couldn't reach"):
        HubSource(hub_set("someone/portraits"))
    path = write_parquet(tmp_path / "a.parquet", rows(1))
    with pytest.raises(DataError, match=r"data\.hub\.revision=main: .* is local"):
        opened(path, revision="main")


def test_unknown_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.hub\.split=test: Unknown split .*train"):
        opened(write_parquet(tmp_path / "a.parquet", rows(1)), split="test")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "sdlora\[hub\]"'):
        HubSource(hub_set("someone/portraits"))


def test_a_set_from_the_hub_names_no_files_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("hub/a.png", "private.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    reader = HubRows(hub_set("someone/portraits"), None, "image", None, (), None)

    def read(path: str) -> bytes:
        return reader.picture_bytes({"image": {"bytes": None, "path": path}})

    assert read(str(tmp_path / "hub" / "a.png")) == png()
    for path in ("private.png", "hub/../private.png"):
        with pytest.raises(PictureError, match="cannot be read"):
            read(str(tmp_path / path))
    with pytest.raises(PictureError, match="cannot be read"):
        read("private.png")


def test_a_hub_out_of_reach_is_no_fault_of_the_row() -> None:
    reader = HubRows(hub_set("someone/portraits"), None, "image", None, (), None)
    path = "hf://datasets/someone/portraits@main/a.png"
    with pytest.raises(DataError, match=r"data\.root=someone/portraits"):
        reader.read({"image": {"bytes": None, "path": path}}, "row 0")


def test_a_source_goes_to_another_process_by_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", rows(50))
    source = opened(tmp_path / "a.parquet")
    assert_numbered(pickle.loads(pickle.dumps(source)), 50)
