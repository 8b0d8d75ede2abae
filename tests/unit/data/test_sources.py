"""A folder is paired by name, and everything wrong with it is said at once."""

import os
import pickle
from pathlib import Path

import pytest
from PIL import Image

from sdlora.data.pictures import PICTURE_SUFFIXES
from sdlora.data.sources import DataError, FolderSource, PortraitSource

PHOTOS = Path(__file__).parents[3].parent / "shared" / "data" / "hw10" / "photos"


def add(folder: Path, name: str, caption: str | None, colour: str = "red") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), colour).save(folder / name)
    if caption is not None:
        (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")


def test_pairs_by_name_and_sorts(tmp_path: Path) -> None:
    add(tmp_path, "b.PNG", "blue", "blue")
    add(tmp_path, "a.b.webp", "green", "lime")
    add(tmp_path, "a.JPeG", "red")
    source = FolderSource(tmp_path)
    assert [(s.name, s.caption) for s in source.samples] == [
        ("a.JPeG", "red"),
        ("a.b.webp", "green"),
        ("b.PNG", "blue"),
    ]
    assert source.image(2).getpixel((20, 20)) == (0, 0, 255)
    assert source.left_out == source.notes == ()


@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
def test_every_announced_ending_is_read(tmp_path: Path, suffix: str) -> None:
    add(tmp_path, f"a{suffix}", "red")
    red, green, blue = FolderSource(tmp_path).image(0).getpixel((20, 20))
    assert red > 250
    assert max(green, blue) < 5  # JPEG and WebP round


def test_a_stray_file_shifts_nothing(tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "lime"), ("c.png", "blue")):
        add(tmp_path, name, colour, colour)
    (tmp_path / "a.txt").unlink()  # as many captions as pictures again, but of other names
    (tmp_path / "aa.txt").write_text("stray")
    source = FolderSource(tmp_path, on_error="skip")
    assert [(s.name, s.caption) for s in source.samples] == [("b.png", "lime"), ("c.png", "blue")]
    assert source.image(0).getpixel((0, 0)) == (0, 255, 0)
    assert source.left_out == (
        "a.png: no caption file a.txt; write it",
        "aa.txt: caption without a picture; add the picture or remove it",
    )


def test_composed_and_decomposed_names_are_one(tmp_path: Path) -> None:
    add(tmp_path, "cafe\u0301.png", None)  # as macOS writes it
    (tmp_path / "caf\u00e9.txt").write_text("a café", encoding="utf-8")
    assert [s.name for s in FolderSource(tmp_path).samples] == ["caf\u00e9.png"]


def test_all_findings_come_at_once(tmp_path: Path) -> None:
    add(tmp_path, "good.png", "fine")
    add(tmp_path, "uncaptioned.png", None)
    add(tmp_path, "blank.png", " \n")
    add(tmp_path, "latin.png", None)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "orphan.txt").write_text("nobody")
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "zero.txt").write_text("nothing")
    add(tmp_path, "two.png", "which?")
    add(tmp_path, "two.bmp", None)
    Image.new("RGB", (1, 400)).save(tmp_path / "strip.png")
    (tmp_path / "strip.txt").write_text("a strip")
    skipped = FolderSource(tmp_path, on_error="skip")
    assert [s.name for s in skipped.samples] == ["good.png"]
    starts = [
        "blank.txt: is empty",
        "latin.txt: is not UTF-8: byte 0xe9 at offset 3",
        "orphan.txt: caption without a picture",
        "strip.png: is 1x400 pixels, its shorter side below 32",
        "two.bmp, two.png: 2 pictures of one name",
        "uncaptioned.png: no caption file uncaptioned.txt",
        "zero.jpg: cannot be decoded",
    ]
    assert len(skipped.left_out) == len(starts)
    for line, start in zip(skipped.left_out, starts, strict=True):
        assert line.startswith(start)
    with pytest.raises(DataError, match="7 finding") as raised:
        FolderSource(tmp_path)
    assert all(line in str(raised.value) for line in skipped.left_out)
    assert "data.on_error=skip" in str(raised.value)


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root=.*does not exist"):
        FolderSource(tmp_path / "none")
    with pytest.raises(DataError, match=r"looked for \.png, \.jpg"):
        FolderSource(tmp_path)
    (tmp_path / "a.txt").write_text("only captions")
    with pytest.raises(DataError, match=r"a\.txt: caption without a picture"):
        FolderSource(tmp_path)
    with pytest.raises(DataError, match="no usable picture"):
        FolderSource(tmp_path, on_error="skip")
    with pytest.raises(DataError, match="is not a folder"):
        FolderSource(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"data\.on_error='ignore'"):
        FolderSource(tmp_path, on_error="ignore")


def test_sub_folders_and_other_files_are_noted(tmp_path: Path) -> None:
    add(tmp_path, "a.png", "red")
    add(tmp_path / "held_out", "b.png", "blue")
    (tmp_path / "empty").mkdir()
    (tmp_path / "phone.heic").write_bytes(b"?")
    (tmp_path / "._a.png").write_bytes(b"macOS leaves these")
    source = FolderSource(tmp_path)
    assert [s.name for s in source.samples] == ["a.png"]
    assert source.notes == (
        "sub-folder held_out is not read (1 pictures)",
        "1 files of other kinds are not read: phone.heic",
    )


def test_other_caption_ending(tmp_path: Path) -> None:
    add(tmp_path, "a.png", None)
    (tmp_path / "a.CAPTION").write_text("red")
    assert FolderSource(tmp_path, caption_suffix=".caption").samples[0].caption == "red"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs, and links need rights")
def test_links_and_pipes_never_block(tmp_path: Path) -> None:
    add(tmp_path / "elsewhere", "far.png", "far", "blue")
    root = tmp_path / "root"
    add(root, "a.png", "red")
    (root / "far.png").symlink_to(tmp_path / "elsewhere" / "far.png")
    (root / "far.txt").symlink_to(tmp_path / "elsewhere" / "far.txt")
    (root / "loop").symlink_to(root)
    source = FolderSource(root)
    assert [s.name for s in source.samples] == ["a.png", "far.png"]
    (root / "round.png").symlink_to(root / "round.png")
    (root / "nowhere.png").symlink_to(root / "gone")
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "pipe.txt")
    source = FolderSource(root, on_error="skip")
    assert [s.name for s in source.samples] == ["a.png", "far.png"]
    for name in ("round.png", "nowhere.png", "pipe.png", "pipe.txt"):
        assert any(line.startswith(name) for line in source.left_out), name


@pytest.mark.skipif(os.name == "nt", reason="Windows forbids such names")
def test_odd_names(tmp_path: Path) -> None:
    names = ["-rf.png", "line\nbreak.png", "A.png", "雪.png", "n" * 250 + ".png"]
    for name in names:
        add(tmp_path, name, name)
    if len(list(tmp_path.iterdir())) == 10:
        add(tmp_path, "a.png", "another")  # a file system that tells case apart
    source = FolderSource(tmp_path)
    assert {s.name for s in source.samples} >= set(names)
    (tmp_path / "line\nbreak.txt").unlink()
    with pytest.raises(DataError, match=r"'line\\nbreak.png': no caption file"):
        FolderSource(tmp_path)


def test_a_picture_lost_later_is_named(tmp_path: Path) -> None:
    add(tmp_path, "a.png", "red")
    source = FolderSource(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: could be read at the start"):
        source.image(0)


def test_fingerprint_sees_pictures_captions_and_names(tmp_path: Path) -> None:
    add(tmp_path, "a.png", "red")
    seen = {FolderSource(tmp_path).fingerprint()}
    assert FolderSource(tmp_path).fingerprint() in seen
    (tmp_path / "a.txt").write_text("crimson")
    seen.add(FolderSource(tmp_path).fingerprint())
    add(tmp_path, "a.png", None, "blue")
    seen.add(FolderSource(tmp_path).fingerprint())
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    seen.add(FolderSource(tmp_path).fingerprint())
    assert len(seen) == 4


def test_portraits_are_drawn_by_seed() -> None:
    source = PortraitSource(3, first_seed=5)
    shifted = PortraitSource(2, first_seed=6)
    assert source.samples[1:] == shifted.samples
    assert source.image(1).tobytes() == shifted.image(0).tobytes()
    assert source.image(0).tobytes() != source.image(1).tobytes()
    assert source.image(0).size == (64, 64)
    copy = pickle.loads(pickle.dumps(source))  # what a spawned worker gets
    assert copy.image(2).tobytes() == source.image(2).tobytes()


def test_portrait_fingerprints_tell_sources_apart() -> None:
    sources = [
        PortraitSource(2),
        PortraitSource(3),
        PortraitSource(2, first_seed=1),
        PortraitSource(2, identity_seed=7),
        PortraitSource(2, size=32),
    ]
    assert len({source.fingerprint() for source in sources}) == len(sources)
    assert PortraitSource(2).fingerprint() == sources[0].fingerprint()
    with pytest.raises(ValueError, match=r"data\.num_pictures=0"):
        PortraitSource(0)


def test_portrait_captions_belong_to_the_drawings() -> None:
    from sdlora.world.portraits import portrait

    source = PortraitSource(2, first_seed=11, identity_seed=3)
    assert [s.caption for s in source.samples] == [portrait(n, 3).caption for n in (11, 12)]


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the shared photos are not on this machine")
def test_a_hundred_real_photos() -> None:
    source = FolderSource(PHOTOS)
    assert len(source.samples) == 100
    assert source.left_out == ()
    assert source.samples[0].name == "001_c04300ef.jpg"
    assert source.samples[0].caption == "a man with a beard and a suit jacket"
    assert source.image(99).mode == "RGB"
