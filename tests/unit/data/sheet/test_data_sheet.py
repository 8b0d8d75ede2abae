"""The data sheet counts right, and warns of equal pictures and of large cuts."""

import pytest

from sdlora.data.pictures.cuts import fitted
from sdlora.data.pictures.picture import ERROR, REMOVED, WARNING, Finding, Picture
from sdlora.data.sheet.data_sheet import Row, large_cuts, row, sheet
from sdlora.data.sources.picture_source import fingerprint


def picture(name: str, size: tuple[int, int] = (64, 64), **more) -> Picture:
    return Picture(**{"name": name, "size": size, "text": name, "content": name} | more)


def rows(*pictures: Picture, bucket: tuple[int, int] = (64, 64)) -> list[Row]:
    return [row(p, fitted(p.size, bucket), p.text) for p in pictures]


def test_what_the_model_sees_of_a_picture() -> None:
    shown = row(picture("a", (200, 100)), fitted((200, 100), (64, 64)), "caption")
    assert shown.crop == (50, 0, 150, 100)
    assert shown.resized == (128, 64)
    assert shown.cut == 0.5
    assert shown.enlarged == 0.64
    assert row(picture("a", (32, 48)), fitted((32, 48), (64, 64)), "").enlarged == 2


@pytest.mark.parametrize("size", [(512, 768), (600, 768), (512, 999), (513, 769)])
def test_a_picture_that_covers_its_bucket_does_not_count_as_enlarged(size) -> None:
    shown = row(picture("a", size), fitted(size, (512, 768)), "")
    assert shown.enlarged <= 1
    assert 0 <= shown.cut < 0.25


def test_counts_and_buckets() -> None:
    wide = rows(picture("w1", (128, 64), repeats=3), picture("w2", (160, 64)), bucket=(128, 64))
    square = rows(
        picture("a"), picture("b", (80, 64)), picture("c", (32, 32), text=" "), picture("d")
    )
    findings = [
        Finding("x.png", "unreadable", "is broken"),
        Finding("x.png", "no_caption", "has none"),
        Finding("y.png", "too_small", "is small", REMOVED),
        Finding("a", "cut_caption", "is long", WARNING),
    ]
    got = sheet([*wide, *square], findings, ["a note"], [("word", 2)], batch_size=3)
    assert got.counts == {
        "pictures": 6,
        "samples": 8,
        "batches": 4,  # 4 samples of one size and 4 of the other, in threes
        "captions": 5,
        "empty_captions": 1,
        "enlarged": 1,
        "files_with_errors": 1,
        "files_removed": 1,
    }
    largest, other = got.buckets
    assert (largest.size, largest.pictures, largest.samples, largest.batches) == ((64, 64), 4, 4, 2)
    assert (other.size, other.pictures, other.samples, other.batches) == ((128, 64), 2, 4, 2)
    assert (largest.mean_cut, largest.max_cut, largest.enlarged) == (0.05, 0.2, 1)
    assert (other.mean_cut, other.max_cut, other.enlarged) == (0.1, 0.2, 0)
    assert got.content == fingerprint([r.picture for r in (*wide, *square)])


def test_findings_are_grouped_errors_first() -> None:
    findings = [
        Finding("c", "cut_caption", "r", WARNING),
        Finding("b", "unreadable", "r"),
        Finding("a", "too_small", "r", REMOVED),
        Finding("a", "unreadable", "r"),
    ]
    got = sheet([], findings, [], [], 1).by_kind()
    assert [(key, [f.name for f in own]) for key, own in got.items()] == [
        ((ERROR, "unreadable"), ["a", "b"]),
        ((REMOVED, "too_small"), ["a"]),
        ((WARNING, "cut_caption"), ["c"]),
    ]


def test_equal_pictures_are_warned_of() -> None:
    same = [picture(f"{i}.png", content="x", text="one") for i in range(6)]
    other = [picture("a.png", content="y", text="A"), picture("b.png", content="y", text="B")]
    warnings = sheet(rows(*same, *other), [], [], [], 1).findings
    assert [(f.kind, f.severity) for f in warnings] == [("same_picture", WARNING)] * 2
    assert str(warnings[0]).startswith(
        "0.png: has the same bytes as 5 other file(s) (1.png, 2.png, 3.png, ...); remove them"
    )
    assert "1 other file(s) with other captions (b.png)" in warnings[1].reason


@pytest.mark.parametrize(
    ("mode", "remedy"),
    [
        ("square", "let the sizes follow the pictures: data.buckets.mode=auto"),
        ("auto", "allow longer sizes with data.buckets.max_aspect"),
        ("fixed", "add a size of its aspect to data.buckets.sizes"),
    ],
)
def test_large_cuts_are_warned_of(mode: str, remedy: str) -> None:
    shown = rows(picture("half", (128, 64)), picture("most", (640, 64)))
    (found,) = large_cuts(shown, mode)
    assert (found.name, found.kind) == ("most", "large_cut")
    assert found.reason == (
        f"loses 90% of its area in the size 64x64; crop it by hand, or {remedy}"
    )


def test_no_picture_at_all() -> None:
    got = sheet([], [], [], [], 4)
    assert not any(got.counts.values())
    assert list(got.buckets) == []
