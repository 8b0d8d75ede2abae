"""A folder is paired by name, and all that is wrong with it is said, file by file."""

import json
import os
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from sdlora.config.data import RootConfig
from sdlora.data.pictures.picture import ERROR, WARNING
from sdlora.data.pictures.picture_formats import PICTURE_SUFFIXES, PictureError
from sdlora.data.sources.file_index import FileIndex, FileKey
from sdlora.data.sources.folder_names import held_out_folder
from sdlora.data.sources.folder_source import FolderSource
from sdlora.data.sources.picture_source import DataError, fingerprint
from sdlora.runtime.progress import Progress
from tests.places import PHOTOS

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows forbids it")
NOT_ROOT = pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="everything is readable for this user"
)
NFC, NFD = "caf\u00e9", "cafe\u0301"


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def pair(folder: Path, name: str, caption: str | bytes = "red", colour: str = "red") -> None:
    picture(folder / name, colour)
    data = caption.encode() if isinstance(caption, str) else caption
    (folder / name).with_suffix(".txt").write_bytes(data)


def table(folder: Path, **texts: str) -> None:
    rows = [{"file_name": f"{stem}.png", "text": text} for stem, text in texts.items()]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def source_of(folder: Path, **options: object) -> FolderSource:
    return FolderSource([set_in(folder)], **options)


def set_in(path: Path, **own: Any) -> RootConfig:
    return RootConfig(path=str(path), **own)


def captions(source: FolderSource) -> dict[str, str]:
    return {picture.name: picture.text for picture in source.pictures}


@dataclass
class Case:
    """What is done to a folder that holds ``good.png``, and what must come of it."""

    name: str
    make: Callable[[Path], object]
    captions: dict[str, str] = field(default_factory=dict)
    findings: list[tuple[str, str, str]] = field(default_factory=list)
    severity: str = ERROR
    mark: pytest.MarkDecorator | tuple[()] = ()


def many(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [step(folder) for step in steps]


def text(name: str, data: bytes = b"red") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def one(name: str, caption: str | bytes = "red") -> Callable[[Path], object]:
    return lambda folder: pair(folder, name, caption)


def alone(name: str, size: tuple[int, int] = (40, 30)) -> Callable[[Path], object]:
    return lambda folder: picture(folder / name, size=size)


def link(name: str, target: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to(folder / target)


def fifo(name: str) -> Callable[[Path], object]:
    return lambda folder: os.mkfifo(folder / name)


def unreadable(name: str) -> Callable[[Path], object]:
    return many(one("a.png"), lambda folder: (folder / name).chmod(0))


def animated(folder: Path) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "a.webp", save_all=True, append_images=frames[1:], lossless=True)


LONGEST = "n" * 251
LOOKS = f"{ascii(NFD + '.png')}, {ascii(NFC + '.png')}"
CASES = [
    Case(
        "endings in any letter case",
        many(alone("A.JPG"), text("A.TXT", b"one"), alone("b.Jpeg"), text("b.Txt", b"two")),
        {"A.JPG": "one", "b.Jpeg": "two"},
    ),
    Case("Unicode and spaces", one("雪 山 (1).png", "snow"), {"雪 山 (1).png": "snow"}),
    Case("dots in the name", one("a.b.c.png", "dots"), {"a.b.c.png": "dots"}),
    Case(
        "accents written apart",
        many(alone(f"{NFD}.png"), text(f"{NFC}.txt", b"coffee")),
        {f"{NFC}.png": "coffee"},
    ),
    Case(
        "accents written in two ways",
        many(alone(f"{NFD}.png"), alone(f"{NFC}.png"), text(f"{NFC}.txt")),
        findings=[(f"{NFC}.png", "doubles", f"2 pictures of one name: {LOOKS}; keep one")],
        mark=pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes them for one"),
    ),
    Case(
        "folders written in two ways",
        many(one(f"{NFC}/a.png", "one"), one(f"{NFD}/b.png", "two")),
        {f"{NFC}/b.png": "two"},
        [(NFC, "doubles", "another folder has the same name in another Unicode form")],
        mark=pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes them for one"),
    ),
    Case(
        "letter case alone tells names apart",
        many(one("x.png", "small"), one("X.png", "large")),
        {"x.png": "small", "X.png": "large"},
        mark=pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="one file"),
    ),
    Case(
        "line break, dash, 255 bytes",
        many(one("line\nbreak.png"), one("-rf.png"), one(f"{LONGEST}.png")),
        {"line\nbreak.png": "red", "-rf.png": "red", f"{LONGEST}.png": "red"},
        mark=POSIX,
    ),
    Case(
        "bytes that are no text in a name",
        lambda folder: one(os.fsdecode(b"latin-\xe9.png"))(folder),
        {os.fsdecode(b"latin-\xe9.png"): "red"},
        mark=pytest.mark.skipif(sys.platform != "linux", reason="names are text there"),
    ),
    Case(
        "no bytes",
        many(text("a.png", b""), text("a.txt")),
        findings=[("a.png", "unreadable", "cannot be decoded")],
    ),
    Case(
        "text called .jpg",
        many(text("a.jpg", b"hello"), text("a.txt")),
        findings=[("a.jpg", "unreadable", "cannot be decoded")],
    ),
    Case(
        "PNG called .jpg",
        many(alone("b.png"), text("b.txt"), lambda f: (f / "b.png").rename(f / "b.jpg")),
        {"b.jpg": "red"},
    ),
    Case(
        "animated",
        many(animated, text("a.txt")),
        {"a.webp": "red"},
        [("a.webp", "animated", "is animated; only its first frame")],
        WARNING,
    ),
    Case("byte order mark", one("a.png", b"\xef\xbb\xbfred"), {"a.png": "red"}),
    Case("CRLF", one("a.png", b"one\r\ntwo\r\n"), {"a.png": "one\ntwo"}),
    Case("5,000 words", one("a.png", "word " * 5_000), {"a.png": ("word " * 5_000).strip()}),
    Case(
        "UTF-16",
        one("a.png", "red".encode("utf-16")),
        findings=[("a.txt", "bad_caption", "is UTF-16")],
    ),
    Case(
        "Latin-1",
        one("a.png", b"caf\xe9"),
        findings=[("a.txt", "bad_caption", "is not UTF-8: byte 0xe9 at offset 3")],
    ),
    Case("blank caption", one("a.png", " \n"), findings=[("a.txt", "bad_caption", "is empty")]),
    Case("no bytes of caption", one("a.png", ""), findings=[("a.txt", "bad_caption", "is empty")]),
    Case("NUL", one("a.png", b"a\0b"), findings=[("a.txt", "bad_caption", "holds a NUL")]),
    Case(
        "huge caption", one("a.png", "word " * 20_000), findings=[("a.txt", "bad_caption", "hol")]
    ),
    Case(
        "caption without picture",
        text("a.txt"),
        findings=[("a.txt", "orphan_caption", "caption without a picture; add")],
    ),
    Case(
        "picture without caption",
        alone("a.png"),
        findings=[("a.png", "no_caption", "no caption file a.txt; write it, or set")],
    ),
    Case(
        "as many captions as pictures, of other names",
        many(alone("a.png"), text("aa.txt")),
        findings=[("a.png", "no_caption", ""), ("aa.txt", "orphan_caption", "")],
    ),
    Case(
        "caption in another folder",
        many(alone("sub/a.png"), text("a.txt")),
        findings=[("a.txt", "orphan_caption", ""), ("sub/a.png", "no_caption", "")],
    ),
    Case(
        "two pictures of one name",
        many(one("a.png"), alone("a.bmp")),
        findings=[("a.bmp", "doubles", "2 pictures of one name: a.bmp, a.png; keep one")],
    ),
    Case(
        "two captions that differ in case",
        many(one("a.png"), text("a.TXT")),
        findings=[("a.TXT", "doubles", "2 captions of one name: a.TXT, a.txt; keep one")],
        mark=pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="one file"),
    ),
    Case(
        "captions of two endings",
        many(one("a.png", "first"), text("a.caption", b"second")),
        {"a.png": "first"},
    ),
    Case(
        "mask of another size",
        many(one("a.png"), alone("a.mask.png", (30, 40))),
        findings=[("a.mask.png", "mask_size", "is 30x40 pixels, its picture 40x30; make them")],
    ),
    Case(
        "mask that is no picture",
        many(one("a.png"), text("a.mask.png")),
        findings=[("a.mask.png", "unreadable", "cannot be decoded")],
    ),
    Case(
        "mask without picture",
        alone("a.mask.png"),
        findings=[("a.mask.png", "orphan_mask", "mask without a picture; add")],
    ),
    Case(
        "table and caption file",
        many(one("a.png"), lambda folder: table(folder, a="blue")),
        findings=[("a.png", "two_captions", "has a caption file and line 1 of metadata.jsonl")],
    ),
    Case(
        "table that names a missing file",
        many(alone("a.png"), lambda folder: table(folder, a="blue", b="gone")),
        {"a.png": "blue"},
        [("metadata.jsonl", "missing_file", "line 2: b.png is not there; add it or remove")],
    ),
    Case(
        "table that leads out",
        lambda folder: (folder / "metadata.csv").write_text("file_name,text\n../a.png,red\n"),
        findings=[("metadata.csv", "outside", "line 2: ../a.png leads out of the table's folder")],
    ),
    Case(
        "table with double rows",
        many(
            alone("a.png"),
            text("metadata.csv", b"file_name,text\na.png,red\na.png,blue\n"),
        ),
        findings=[("metadata.csv", "duplicate_row", "line 3: a.png has another text in line 2")],
    ),
    Case(
        "two tables in a folder",
        many(
            alone("a.png"),
            lambda folder: table(folder, a="first"),
            text("metadata.csv", b"file_name,text\na.png,second\n"),
        ),
        {"a.png": "first"},
        [("metadata.csv", "doubles", "a table of captions beside metadata.jsonl; keep one")],
    ),
    Case(
        "two tables for a picture",
        many(
            alone("sub/a.png"),
            lambda folder: table(folder / "sub", a="first"),
            text("metadata.csv", b"file_name,text\nsub/a.png,second\n"),
        ),
        findings=[("sub/a.png", "two_captions", "has line 2 of metadata.csv and line 1 of sub/")],
    ),
    Case(
        "link in a circle",
        many(one("a.png"), link("b.png", "b.png"), text("b.txt")),
        {"a.png": "red"},
        [("b.png", "broken_link", "")],
        mark=POSIX,
    ),
    Case(
        "link that leads nowhere",
        many(alone("a.png"), link("a.txt", "gone"), link("usb", "gone")),
        findings=[("a.txt", "broken_link", ""), ("usb", "broken_link", "")],
        mark=POSIX,
    ),
    Case(
        "link to the folder itself",
        many(one("sub/a.png"), link("sub/up", ".")),
        {"sub/a.png": "red"},
        [("sub/up", "loop", "is a link to folders that are read or held out; remove it")],
        WARNING,
        mark=POSIX,
    ),
    Case(
        "FIFOs",
        many(fifo("a.png"), text("a.txt"), alone("b.png"), fifo("b.txt"), fifo("metadata.csv")),
        findings=[
            ("a.png", "no_file", "is not a regular file; remove it"),
            ("b.txt", "no_file", "is not a regular file; remove it"),
            ("metadata.csv", "no_file", "is not a regular file; remove it"),
        ],
        mark=POSIX,
    ),
    Case(
        "unreadable picture",
        unreadable("a.png"),
        findings=[("a.png", "unreadable", "Permission denied; check the file")],
        mark=NOT_ROOT,
    ),
    Case(
        "unreadable caption",
        unreadable("a.txt"),
        findings=[("a.txt", "unreadable", "Permission denied; check the file")],
        mark=NOT_ROOT,
    ),
    Case(
        "unreadable folder",
        many(one("sub/a.png"), lambda folder: (folder / "sub").chmod(0)),
        findings=[("sub", "unreadable", "cannot be listed (Permission denied)")],
        mark=NOT_ROOT,
    ),
    Case("hidden files", many(text(".a.png"), text("._good.png"), one(".dir/b.png"))),
    Case("a folder named as a picture", one("dir.png/a.png"), {"dir.png/a.png": "red"}),
]


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name, marks=c.mark) for c in CASES])
def test_each_state_of_a_folder(tmp_path: Path, case: Case) -> None:
    (tmp_path / "sub").mkdir()
    pair(tmp_path, "good.png", "fine")
    case.make(tmp_path)
    source = source_of(tmp_path)
    found = [(finding.name, finding.kind) for finding in source.findings]
    assert found == [(name, kind) for name, kind, _ in case.findings], source.findings
    for finding, (_, _, reason) in zip(source.findings, case.findings, strict=True):
        assert finding.reason.startswith(reason)
        assert finding.severity == case.severity
    assert captions(source) == {"good.png": "fine", **case.captions}
    for index, own in enumerate(source.pictures):
        assert source.image(index).size == own.size


def test_pairs_by_name_and_sorts(tmp_path: Path) -> None:
    pair(tmp_path, "b.PNG", "blue", "blue")
    pair(tmp_path, "a/z.webp", "green", "lime")
    pair(tmp_path, "a.JPeG", "red")
    source = source_of(tmp_path)
    assert list(captions(source).items()) == [
        ("a.JPeG", "red"),
        ("a/z.webp", "green"),
        ("b.PNG", "blue"),
    ]
    assert source.image(2).getpixel((20, 20)) == (0, 0, 255)
    assert source.mask(2) is None
    assert source.findings == source.notes == []
    sizes = [(tmp_path / picture.name).stat().st_size for picture in source.pictures]
    assert [picture.file_bytes for picture in source.pictures] == sizes


@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
def test_every_announced_ending_is_read(tmp_path: Path, suffix: str) -> None:
    if suffix in (".heic", ".heif", ".hif"):
        pytest.importorskip("pillow_heif").register_heif_opener()
    if suffix == ".jxl":
        pytest.importorskip("pillow_jxl")
    usual = {".hif": ".heic", ".jpf": ".jp2"}.get(suffix, suffix)
    pair(tmp_path, f"a{usual}")
    (tmp_path / f"a{usual}").rename(tmp_path / f"a{suffix}")
    red, green, blue = source_of(tmp_path).image(0).getpixel((20, 20))
    assert red > 245
    assert max(green, blue) < 10  # JPEG and WebP round


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_the_upright_picture(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("turned")
    upright = (40, 30) if orientation < 5 else (30, 40)
    picture(tmp_path / "a.mask.png", size=upright)
    source = source_of(tmp_path)
    assert source.findings == []
    assert source.pictures[0].size == source.image(0).size == upright


def test_a_flat_read_leaves_sub_folders(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    pair(tmp_path, "sub/b.png")
    pair(tmp_path, "sub/deep/c.png")
    (tmp_path / "empty").mkdir()
    assert list(captions(source_of(tmp_path))) == ["a.png", "sub/b.png", "sub/deep/c.png"]
    source = source_of(tmp_path, nested=False)
    assert list(captions(source)) == ["a.png"]
    assert source.notes == ["sub-folder sub is not read (2 pictures)"]


def test_a_flat_read_has_the_masks_and_captions_of_its_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "masks/a.png")
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "a.txt").write_text("of the folder", "utf-8")
    pair(tmp_path, "text/b.png")
    source = source_of(tmp_path, nested=False)
    assert captions(source) == {"a.png": "of the folder"}
    assert source.pictures[0].has_mask
    assert source.findings == []
    assert source.notes == ["sub-folder text is not read (1 pictures)"]


def test_what_is_held_out_is_counted_and_not_read(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    pair(tmp_path, "held_out/b.png")
    pair(tmp_path, "held_out/deep/c.png")
    pair(tmp_path, "deep/held_out/d.png")
    table(tmp_path, **{"held_out/b": "unused"})
    source = source_of(tmp_path)
    assert list(captions(source)) == ["a.png", "deep/held_out/d.png"]
    assert source.findings == []
    assert source.notes == [
        "held_out: 2 held-out pictures, not trained on",
        "1 rows of tables are for pictures in folders that are not read: held_out/b.png",
    ]


@POSIX
def test_links_to_elsewhere_are_followed_and_none_into_what_is_held_out(tmp_path: Path) -> None:
    pair(tmp_path / "elsewhere", "far.png", "far", "blue")
    root = tmp_path / "root"
    pair(root, "a.png")
    pair(root, "held_out/b.png")
    (root / "far.png").symlink_to(tmp_path / "elsewhere" / "far.png")
    (root / "far.txt").symlink_to(tmp_path / "elsewhere" / "far.txt")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "up").symlink_to(tmp_path)
    (root / "leak").symlink_to(root / "held_out")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere")
    source = source_of(root)
    assert captions(source) == {"a.png": "red", "again/far.png": "far", "far.png": "far"}
    assert source.image(1).getpixel((0, 0)) == (0, 0, 255)
    loops = [(finding.name, finding.kind, finding.severity) for finding in source.findings]
    names = ("again/round", "folder", "leak", "up")
    assert loops == [(name, "loop", WARNING) for name in names]


def test_each_other_file_is_named(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    picture(tmp_path / "photo.png")
    (tmp_path / "photo.png").rename(tmp_path / "photo.jpg_large")
    (tmp_path / "a.caption").write_text("a second one")
    names = (
        "drawing.PSD",
        "a.psd",
        "film.mov",
        "README",
        "a.npz",
        "set.zip",
        "Thumbs.db",
        ".DS_Store",
    )
    for name in names:
        (tmp_path / name).write_bytes(b"?")
    source = source_of(tmp_path)
    assert [(str(finding), finding.severity) for finding in source.findings] == [
        ("README: is not read: its ending is none of a picture, caption or table", WARNING),
        (
            "a.npz: is not read: latents of another trainer; this one keeps its own in the cache",
            WARNING,
        ),
        ("a.psd: is not read, as a picture of its name is there", WARNING),
        ("drawing.PSD: is a picture of a kind that is not read (.psd); save it as PNG", ERROR),
        ("film.mov: is not read: a film; save frames of it as PNG", WARNING),
        (
            "photo.jpg_large: holds a PNG picture, which its ending hides; rename it, such as to "
            "photo.png",
            ERROR,
        ),
        ("set.zip: is not read: an archive; unpack it, or set data.root to it", WARNING),
    ]
    assert source.notes == [
        "1 second caption files are not read, since the first of .txt, .caption counts: a.caption"
    ]
    (tmp_path / "photo.jpg_large").rename(tmp_path / "photo.png")  # as it says
    assert list(captions(source_of(tmp_path, default_caption=""))) == ["a.png", "photo.png"]


def test_hidden_pictures_and_folders_are_named(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    pair(tmp_path, ".old/b.png")
    pair(tmp_path, "@eaDir/c.png")
    (tmp_path / ".git").mkdir()
    picture(tmp_path / ".d.png")
    (tmp_path / "._a.png").write_bytes(b"of macOS")
    source = source_of(tmp_path)
    assert list(captions(source)) == ["a.png"]
    assert source.findings == []
    assert source.notes == [
        "hidden folder .old is not read (1 pictures)",
        "hidden folder @eaDir is not read (1 pictures)",
        "1 hidden files are not read: .d.png",
    ]


@pytest.mark.parametrize("name", ["held_out", "Held_Out", "HELD-OUT", "held out", "heldout"])
def test_the_held_out_folder_in_any_spelling(tmp_path: Path, name: str) -> None:
    pair(tmp_path, "a.png")
    pair(tmp_path, f"{name}/b.png")
    source = source_of(tmp_path)
    assert list(captions(source)) == ["a.png"]
    assert source.notes == [f"{name}: 1 held-out pictures, not trained on"]
    assert held_out_folder(tmp_path) == tmp_path / name
    assert held_out_folder(tmp_path / "gone") is None


@pytest.mark.parametrize(
    "files",
    [
        ("config.json", "metrics.jsonl"),
        ("dataset.json", "contact_sheet.png"),
        ("report.json", "report.html"),
        (".hydra/config.yaml",),
    ],
)
def test_the_folder_of_a_run_is_left_out_with_a_line(
    tmp_path: Path, files: tuple[str, ...]
) -> None:
    pair(tmp_path, "a.png")
    run = tmp_path / "outputs" / "now"
    for name in files:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    picture(run / "samples" / "step_1.png")
    source = source_of(tmp_path, default_caption="")
    assert list(captions(source)) == ["a.png"]
    count = 1 + ("contact_sheet.png" in files)
    assert source.notes == [f"folder of a run outputs/now is not read ({count} pictures)"]
    assert source.findings == []
    # named itself, it is read: its pictures may be meant
    assert "samples/step_1.png" in captions(source_of(run, default_caption=""))


@POSIX
def test_links_out_of_the_folder_are_a_line(tmp_path: Path) -> None:
    root, far = tmp_path / "root", tmp_path / "elsewhere"
    pair(root, "a.png")
    pair(far, "b.png", "far")
    (root / "b.png").symlink_to(far / "b.png")
    (root / "b.txt").symlink_to(far / "b.txt")
    (root / "same.png").symlink_to(root / "a.png")
    (root / "folder").symlink_to(far)
    source = source_of(root, default_caption="")
    assert source.notes == [
        f"3 links lead out of the data folder and are followed: b.png -> {far / 'b.png'}, "
        f"b.txt -> {far / 'b.txt'}, folder -> {far}"
    ]


def test_endings_of_captions(tmp_path: Path) -> None:
    pair(tmp_path, "a.png", "plain")
    (tmp_path / "a.tags.TXT").write_text("tag")
    assert captions(source_of(tmp_path, caption_endings=[".tags.txt"])) == {"a.png": "tag"}
    source = source_of(tmp_path, caption_endings=[".caption", ".tags.txt", ".txt"])
    assert captions(source) == {"a.png": "tag"}
    (tmp_path / "a.Caption").write_text("first")
    source = source_of(tmp_path, caption_endings=[".caption", ".tags.txt", ".txt"])
    assert captions(source) == {"a.png": "first"}


def test_captions_from_a_table(tmp_path: Path) -> None:
    for name in ("a.png", f"sub/{NFD}.png", "sub/own.png"):
        picture(tmp_path / name)
    table(tmp_path, **{"a": "one", f"./sub/{NFC}": "two"})
    table(tmp_path / "sub", own="three")
    expected = {"a.png": "one", f"sub/{NFC}.png": "two", "sub/own.png": "three"}
    source = source_of(tmp_path)
    assert captions(source) == expected
    assert source.findings == []


def test_captions_for_pictures_that_have_none(tmp_path: Path) -> None:
    pair(tmp_path / "x", "a.png", "own")
    for folder in ("x", "y"):
        picture(tmp_path / folder / "b.png")
    roots = [
        set_in(tmp_path / "x"),
        set_in(tmp_path / "y", class_caption=" a dog "),
    ]
    source = FolderSource(roots, default_caption="")
    assert captions(source) == {"x/a.png": "own", "x/b.png": "", "y/b.png": "a dog"}
    source = FolderSource(roots)
    assert [str(finding) for finding in source.findings] == [
        "x/b.png: no caption file b.txt; write it, or set data.captions.default"
    ]
    with pytest.raises(DataError, match=r"data\.root=.*y.* holds <\|endoftext\|>"):
        FolderSource([set_in(tmp_path / "y", class_caption="<|endoftext|>")])


def test_roots_give_their_pictures_their_own(tmp_path: Path) -> None:
    for folder in ("one/set", "two/set", "three/set", "three/set-2"):
        pair(tmp_path / folder, "a.png", folder)
    (tmp_path / "three" / "set" / "b.txt").write_text("no picture")
    source = FolderSource(
        [
            set_in(tmp_path / "one" / "set", repeats=3, prefix="sks dog, "),
            set_in(tmp_path / "three" / "set-2"),
            set_in(tmp_path / "two" / "set"),
            set_in(tmp_path / "three" / "set"),
        ]
    )
    told = [(p.name, p.text, p.repeats, p.prefix) for p in source.pictures]
    assert told == [
        ("set-2/a.png", "three/set-2", 1, ""),
        ("set-3/a.png", "two/set", 1, ""),
        ("set-4/a.png", "three/set", 1, ""),
        ("set/a.png", "one/set", 3, "sks dog, "),
    ]
    assert [finding.name for finding in source.findings] == ["set-4/b.txt"]


def test_roots_that_are_none(tmp_path: Path) -> None:
    pair(tmp_path / "x", "sub/a.png")
    with pytest.raises(DataError, match=r"data\.root=.*gone: does not exist; give the folder"):
        source_of(tmp_path / "gone")
    with pytest.raises(DataError, match="is not a folder"):
        source_of(tmp_path / "x" / "sub" / "a.png")
    for other in ("x", "x/../x/sub", "."):
        with pytest.raises(DataError, match="are one folder, or one lies in the other"):
            FolderSource([set_in(tmp_path / "x"), set_in(tmp_path / other)])


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    pair(tmp_path / "x", "a.png")
    (tmp_path / "empty").mkdir()
    source = source_of(tmp_path / "empty")
    assert source.pictures == source.findings == []
    assert source.notes[0].startswith(f"no picture in {tmp_path / 'empty'}: looked for .png, .jpg")
    source = FolderSource([set_in(tmp_path / "x"), set_in(tmp_path / "empty")])
    assert list(captions(source)) == ["x/a.png"]
    assert len(source.notes) == 1


def test_masks_from_files_and_from_alpha(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    Image.linear_gradient("L").resize((40, 30)).save(tmp_path / "a.MASK.Png")
    for name in ("both.png", "clear.png"):
        Image.new("RGBA", (40, 30), (255, 0, 0, 128)).save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("half")
    Image.new("L", (40, 30), 255).save(tmp_path / "both.mask.png")
    plain = source_of(tmp_path, background="#0000ff")
    masked = source_of(tmp_path, alpha_is_mask=True)
    assert [picture.has_mask for picture in plain.pictures] == [True, True, False]
    assert [picture.has_mask for picture in masked.pictures] == [True, True, True]
    assert plain.mask(0).tobytes() == Image.open(tmp_path / "a.MASK.Png").tobytes()
    assert [masked.mask(index).getpixel((0, 0)) for index in (1, 2)] == [255, 128]
    assert plain.mask(2) is None
    assert plain.image(2).getpixel((0, 0)) == (128, 0, 127)
    assert plain.pictures[2].size == plain.image(2).size


def test_a_file_changed_after_the_start_is_named(tmp_path: Path) -> None:
    for name in ("changed", "gone", "touched"):
        pair(tmp_path, f"{name}.png")
        picture(tmp_path / f"{name}.mask.png", "white")
    source = source_of(tmp_path)
    for ending in (".png", ".mask.png"):
        (tmp_path / f"gone{ending}").unlink()
        picture(tmp_path / f"changed{ending}", "blue")
        os.utime(tmp_path / f"touched{ending}")
    for read in (source.image, source.mask):
        with pytest.raises(DataError, match=r"changed.*png: was changed since the run read it"):
            read(0)
        with pytest.raises(DataError, match=r"gone.*png: could be read at the start, but now"):
            read(1)
        assert read(2) is not None


def test_a_cut_picture_is_found_when_it_is_decoded(tmp_path: Path) -> None:
    Image.effect_noise((40, 30), 50).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("cut")
    os.truncate(tmp_path / "a.png", (tmp_path / "a.png").stat().st_size // 2)
    source = source_of(tmp_path)
    assert source.findings == []  # its header is whole
    with pytest.raises(PictureError, match="cannot be decoded"):
        source.image(0)


def aged(folder: Path) -> None:
    """Set change times back, as a file that was just written is not kept."""
    for path in folder.rglob("*.*"):
        os.utime(path, (time.time() - 3_600,) * 2)


def key(path: Path) -> FileKey:
    status = path.stat()
    return FileKey(str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def test_known_files_are_not_read_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    pair(root, "a.png", "red")
    pair(root, "b.png", "blue")
    aged(root)
    with FileIndex(tmp_path / "index") as index:
        first = source_of(root, index=index)
        known = index.pictures([key(root / "a.png")])[str(root / "a.png")]
        assert (known.content, known.width, known.height) == (first.pictures[0].content, 40, 30)
        # what no reading could give shows where facts come from
        index.store_pictures({key(root / "a.png"): known._replace(width=7)}, time.time_ns())
        index.store_captions({key(root / "b.txt"): "as known"}, time.time_ns())
    with FileIndex(tmp_path / "index") as index:
        second = source_of(root, index=index)
        assert [picture.size for picture in second.pictures] == [(7, 30), (40, 30)]
        assert [picture.text for picture in second.pictures] == ["red", "as known"]
        (root / "b.txt").write_text("new")
        picture(root / "a.png", size=(50, 50))
        third = source_of(root, index=index)
        assert [picture.size for picture in third.pictures] == [(50, 50), (40, 30)]
        assert [picture.text for picture in third.pictures] == ["red", "new"]


def test_what_is_faulty_is_read_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    pair(root, "a.png", b"\xff")
    (root / "b.png").write_bytes(b"no picture")
    aged(root)
    with FileIndex(tmp_path / "index") as index:
        runs = [source_of(root, default_caption="", index=index).findings for _ in range(2)]
    assert [finding.name for finding in runs[0]] == ["a.txt", "b.png"]
    assert runs[0] == runs[1]


def test_many_new_files_with_a_bar(tmp_path: Path) -> None:
    folder = tmp_path / "root"
    pair(folder, "0.png")
    data = (folder / "0.png").read_bytes()
    for number in range(1, 600):
        (folder / f"{number}.png").write_bytes(data)
    with Progress(enabled=False) as progress, FileIndex(None) as index:
        source = source_of(folder, default_caption="", index=index, progress=progress)
        assert progress.tasks() == []
    assert len(source.pictures) == 600
    assert {picture.content for picture in source.pictures} == {source.pictures[0].content}


def test_a_copy_for_a_worker_reads_the_same(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    with FileIndex(None) as index:
        source = source_of(tmp_path, index=index, progress=Progress(enabled=False))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.pictures == source.pictures
    assert copy.image(0).tobytes() == source.image(0).tobytes()


def test_fingerprint_sees_pictures_captions_and_names(tmp_path: Path) -> None:
    pair(tmp_path, "a.png", "red")
    seen = {fingerprint(source_of(tmp_path).pictures)}
    assert fingerprint(source_of(tmp_path).pictures) in seen
    (tmp_path / "a.txt").write_text("crimson")
    seen.add(fingerprint(source_of(tmp_path).pictures))
    picture(tmp_path / "a.png", "blue")
    seen.add(fingerprint(source_of(tmp_path).pictures))
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    seen.add(fingerprint(source_of(tmp_path).pictures))
    assert len(seen) == 4


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the shared photos are not on this machine")
def test_a_hundred_real_photos() -> None:
    source = source_of(PHOTOS)
    assert len(source.pictures) == 100
    assert source.findings == []
    assert source.pictures[0].name == "001_c04300ef.jpg"
    assert source.pictures[0].text == "a man with a beard and a suit jacket"
    assert source.image(99).size == source.pictures[99].size
