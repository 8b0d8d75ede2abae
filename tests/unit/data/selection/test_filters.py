"""Filters leave out what they say, name it, and keep all else."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sdlora.data.pictures.picture import ERROR, REMOVED, Picture
from sdlora.data.selection.filters import MIB, apply_filters, near_duplicates
from sdlora.data.selection.measures import phash
from sdlora.world.portraits import portrait
from tests.configs import filters_config as only


def picture(name: str, size: tuple[int, int] = (640, 480), text: str = "", content: str = ""):
    return Picture(name, size, text, content or name)


class Values:
    """Measured values by name of the picture; whatever has none cannot be decoded."""

    def __init__(self, pictures: Sequence[Picture], **kinds: dict[str, str]) -> None:
        self.pictures = pictures
        self.kinds = kinds
        self.asked: list[tuple[list[str], list[int]]] = []

    def of(self, kinds: Sequence[str], numbers: Sequence[int]) -> dict[str, dict[str, str]]:
        self.asked.append(([*kinds], [*numbers]))
        shown = {self.pictures[i].name: self.pictures[i].content for i in numbers}
        decode = {
            content: "ok" if all(name in self.kinds[kind] for kind in kinds) else "is broken"
            for name, content in shown.items()
        }
        return {"decode": decode} | {
            kind: {shown[name]: v for name, v in self.kinds[kind].items() if name in shown}
            for kind in kinds
        }


class Undecoded:
    """For what must not need decoding."""

    def of(self, kinds: Sequence[str], numbers: Sequence[int]) -> dict[str, dict[str, str]]:
        raise AssertionError("nothing here needs decoding")


def reasons(found) -> list[str]:
    return [str(finding) for finding in found]


def test_no_filter_keeps_all() -> None:
    pictures = [picture("a.png", (1, 1)), picture("b.png", content="a.png")]
    assert apply_filters(pictures, only(), Undecoded()) == ([0, 1], [])
    assert apply_filters([], only(exact_duplicates=True, near_duplicates=3), Undecoded()) == (
        [],
        [],
    )


@pytest.mark.parametrize(
    ("filters", "kept", "reason"),
    [
        ({"min_width": 301}, [1, 2], "is 300x200 pixels, its width below data.filters.min_width="),
        ({"min_width": 300}, [0, 1, 2], ""),
        ({"min_height": 201}, [1, 2], "is 300x200 pixels, its height below data.filters.min_hei"),
        ({"min_height": 200}, [0, 1, 2], ""),
        ({"min_area_px": 60_001}, [1, 2], "is 300x200 pixels, its area below data.filters.min_"),
        ({"min_area_px": 60_000}, [0, 1, 2], ""),
        ({"max_aspect": 1.99}, [0, 2], "is 800x400 pixels, its width / height of 2 above data."),
        ({"max_aspect": 2}, [0, 1, 2], ""),
        ({"min_aspect": 0.51}, [0, 1], "is 400x800 pixels, its width / height of 0.5 below data."),
        ({"min_aspect": 0.5}, [0, 1, 2], ""),
        ({"min_width": 301, "min_height": 400}, [1, 2], "min_width=301 and its height below"),
    ],
)
def test_sizes(filters: dict, kept: list[int], reason: str) -> None:
    pictures = [picture("a", (300, 200)), picture("b", (800, 400)), picture("c", (400, 800))]
    left, found = apply_filters(pictures, only(**filters), Undecoded())
    assert left == kept
    assert len(found) == 3 - len(kept)
    for finding in found:
        assert reason in finding.reason
        assert finding.severity == REMOVED
        assert finding.kind in ("too_small", "aspect")


def test_large_files() -> None:
    sizes = {"a.png": 2 * MIB, "b.png": 3 * MIB // 2, "drawn": 0}
    pictures = [replace(picture(name), file_bytes=size) for name, size in sizes.items()]
    kept, found = apply_filters(pictures, only(max_file_mib=1.5), Undecoded())
    assert kept == [1, 2]
    assert reasons(found) == ["a.png: has 2 MiB, above data.filters.max_file_mib=1.5"]


def test_of_equal_files_the_first_by_name_stays() -> None:
    pictures = [
        picture("c.png", content="x"),
        picture("a.png", text="A", content="x"),
        picture("b.png", content="y"),
        picture("d.png", text="A", content="x"),
    ]
    kept, found = apply_filters(pictures, only(exact_duplicates=True), Undecoded())
    assert kept == [1, 2]
    same = "has the same bytes as a.png, which is kept"
    assert reasons(found) == [
        f"c.png: {same}, with another caption (data.filters.exact_duplicates)",
        f"d.png: {same} (data.filters.exact_duplicates)",
    ]


def test_blurred_pictures() -> None:
    pictures = [picture("a.png"), picture("b.png"), picture("c.png")]
    measured = Values(pictures, sharpness={"a.png": "49.9", "b.png": "50", "c.png": "1e3"})
    kept, found = apply_filters(pictures, only(min_sharpness=50), measured)
    assert kept == [1, 2]
    assert reasons(found) == ["a.png: has a sharpness of 49.9, below data.filters.min_sharpness=50"]


def test_of_like_pictures_the_largest_stays_then_the_first_by_name() -> None:
    pictures = [
        picture("a.png", (100, 100)),
        picture("b.png", (300, 300)),
        picture("d.png", (300, 300)),
        picture("c.png", (500, 100)),
    ]
    hashes = {"a.png": f"{0:016x}", "b.png": f"{1:016x}", "d.png": f"{1:016x}", "c.png": "f" * 16}
    kept, found = apply_filters(pictures, only(near_duplicates=2), Values(pictures, phash=hashes))
    assert kept == [1, 3]
    like = "looks like b.png (300x300), which is kept"
    assert reasons(found) == [
        f"a.png: {like}: 1 of 64 hash bits differ (data.filters.near_duplicates=2)",
        f"d.png: {like}: 0 of 64 hash bits differ (data.filters.near_duplicates=2)",
    ]


def test_a_chain_of_small_steps_does_not_join_its_ends() -> None:
    pictures = [picture(name) for name in "abc"]
    hashes = {"a": f"{0b000:016x}", "b": f"{0b011:016x}", "c": f"{0b1111:016x}"}
    kept, found = apply_filters(pictures, only(near_duplicates=2), Values(pictures, phash=hashes))
    assert kept == [0, 2]
    assert [finding.name for finding in found] == ["b"]


def test_copies_of_real_pictures_are_found_and_strangers_stay() -> None:
    drawn = [portrait(seed, size=256).image.convert("RGB") for seed in range(12)]
    small = drawn[5].resize((128, 128), Image.Resampling.LANCZOS)
    images = [*drawn, small]
    pictures = [picture(f"{i:02}.png", image.size) for i, image in enumerate(images)]
    hashes = {p.name: phash(image) for p, image in zip(pictures, images, strict=True)}
    kept, found = apply_filters(pictures, only(near_duplicates=4), Values(pictures, phash=hashes))
    assert kept == list(range(12))
    assert found[0].reason.startswith("looks like 05.png (256x256), which is kept")


def test_what_cannot_be_decoded_is_an_error_and_not_kept() -> None:
    pictures = [picture("a.png"), picture("b.png")]
    kept, found = apply_filters(
        pictures, only(min_sharpness=1), Values(pictures, sharpness={"b.png": "9"})
    )
    assert kept == [1]
    assert [(f.name, f.kind, f.reason, f.severity) for f in found] == [
        ("a.png", "unreadable", "is broken", ERROR)
    ]


def test_only_what_is_left_is_decoded_and_each_picture_is_named_once() -> None:
    pictures = [
        picture("small.png", (9, 9)),
        picture("copy.png", content="x"),
        picture("again.png", content="x"),
        picture("blurred.png"),
        picture("good.png"),
    ]
    everything = only(min_width=10, exact_duplicates=True, near_duplicates=1, min_sharpness=10)
    measured = Values(
        pictures,
        phash={"again.png": "0" * 16, "blurred.png": "0" * 16, "good.png": "f" * 16},
        sharpness={"again.png": "20", "blurred.png": "2", "good.png": "20"},
    )
    kept, found = apply_filters(pictures, everything, measured)
    assert measured.asked == [(["phash", "sharpness"], [2, 3, 4])]
    assert kept == [2, 4]
    assert [(f.name, f.kind) for f in found] == [
        ("small.png", "too_small"),
        ("copy.png", "same_picture"),
        ("blurred.png", "blurred"),
    ]


@pytest.mark.parametrize("distance", [0, 3, 5])
def test_near_duplicates_agree_with_a_plain_loop(distance: int) -> None:
    random = np.random.default_rng(distance)
    bases = random.integers(0, 2**64, 40, dtype=np.uint64)
    hashes = random.choice(bases, 400)
    for _ in range(4):  # up to four bits flipped
        flips = np.uint64(1) << random.integers(0, 64, 400, dtype=np.uint64)
        hashes = np.where(random.random(400) < 0.5, hashes ^ flips, hashes)
    near = near_duplicates(hashes, distance)
    kept: list[int] = []
    for index, own in enumerate(hashes.tolist()):
        distances = [(own ^ hashes.tolist()[other]).bit_count() for other in kept]
        if distances and min(distances) <= distance:
            assert near[index] == kept[distances.index(min(distances))]
        else:
            kept.append(index)
            assert index not in near
    assert 0 < len(near) < 400


def test_many_hashes_are_compared_in_time() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
    hashes[-1] = hashes[0] ^ np.uint64(0b1001)
    assert near_duplicates(hashes, 4) == {19_999: 0}


def test_names_with_line_breaks_are_escaped() -> None:
    pictures = [picture("a\nb.png", content="x"), picture("c.png", content="x")]
    _, found = apply_filters(pictures, only(exact_duplicates=True), Undecoded())
    assert "'a\\nb.png'" in found[0].reason
