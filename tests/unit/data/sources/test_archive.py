"""An archive is unpacked whole, once, and inside its folder, or refused with nothing left."""

import hashlib
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from threading import Barrier

import pytest

from sdlora.data.sources import archive_rules
from sdlora.data.sources.archive import unpacked
from sdlora.data.sources.archive_rules import ArchiveError, Budget, Entry, Limits
from sdlora.data.sources.picture_source import DataError
from sdlora.runtime.progress import Progress
from tests.unit.data.archive_files import (
    CENTRAL,
    FILES,
    LOCAL,
    PACKED,
    REFUSED,
    STORED,
    patched,
    tarred,
    zipped,
)

SMALL = Limits(max_entries=10, max_bytes=100_000, max_ratio=10, harmless_bytes=20_000)


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unsafe_or_damaged_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    data, message = REFUSED[name]
    path = written(tmp_path, name, data)
    with pytest.raises(DataError) as caught:
        unpacked(path, tmp_path / "a" / "cache", limits=SMALL)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert ";" in str(caught.value), "no remedy"
    assert contents(tmp_path) == {name: data, "a/cache/archives/.lock": b""}
    assert not list((tmp_path / "a" / "cache" / "archives").glob(".unpacking*"))


@pytest.mark.parametrize("name", PACKED)
def test_a_folder_is_unpacked_whatever_the_ending(tmp_path: Path, name: str) -> None:
    found = unpacked(written(tmp_path, name, PACKED[name]), tmp_path / "cache")
    assert found.name == "set"
    assert contents(found) == {"a.jpg": b"picture", "a.txt": b"caption", "below/b.jpg": b"other"}
    assert found.is_relative_to(tmp_path / "cache" / "archives")


def test_several_top_entries_are_returned_together(tmp_path: Path) -> None:
    files = {"a/1.jpg": b"1", "b/2.jpg": b"2"}
    data = zipped(files.items())
    found = unpacked(written(tmp_path, "set.zip", data), tmp_path / "cache")
    assert found == tmp_path / "cache" / "archives" / hashlib.sha256(data).hexdigest()[:32]
    assert contents(found) == files
    one = unpacked(written(tmp_path, "one.zip", zipped([("1.jpg", b"1")])), tmp_path / "cache")
    assert contents(one) == {"1.jpg": b"1"}


def test_an_archive_in_an_archive_is_a_file(tmp_path: Path) -> None:
    found = unpacked(written(tmp_path, "s.zip", zipped([("in.zip", STORED)])), tmp_path / "cache")
    assert contents(found) == {"in.zip": STORED}


def test_names_of_all_letters(tmp_path: Path) -> None:
    """macOS writes UTF-8 into a zip without the flag that says so (APPNOTE.TXT, D.2)."""
    name = "größe 写真.jpg"
    files = [(name, b"1"), ("x" * 200 + "/" + "y" * 200 + ".jpg", b"2"), ("-rf", b"3")]
    data = zipped(files)
    flagged = struct.pack("<H", 0x800)
    place, central = data.index(flagged), data.index(CENTRAL)
    assert (place, data[central + 8 : central + 10]) == (6, flagged)
    unflagged = patched(data, (LOCAL, 6, b"\0\0"), (CENTRAL, 8, b"\0\0"))
    for number, packed in enumerate([data, unflagged, tarred(files)]):
        found = unpacked(written(tmp_path, f"{number}.zip", packed), tmp_path / "cache")
        assert contents(found) == dict(files)


def test_names_that_windows_takes_for_others_are_refused_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_rules, "_ON_WINDOWS", True)
    for number, name in enumerate(["ab:c.jpg", "con.txt", "a/NUL/b.jpg", "COM1", "a.jpg.", "b "]):
        path = written(tmp_path, f"{number}.tar", tarred([(name, b"")]))
        with pytest.raises(DataError, match="cannot be the name of a file here; rename it"):
            unpacked(path, tmp_path / "cache")
    path = written(tmp_path, "good.tar", tarred([("console.txt", b"1"), ("a.com1", b"2")]))
    assert len(contents(unpacked(path, tmp_path / "cache"))) == 2


def test_bytes_are_counted_whatever_was_claimed() -> None:
    budget = Budget(SMALL, archive_bytes=5000)
    entry = Entry("a.jpg", is_folder=False, num_bytes=10, open=BytesIO)
    budget.add_entry(entry)
    budget.add_bytes(entry, 50_000)
    with pytest.raises(ArchiveError, match=r"with a\.jpg, to more than 10 times its own size"):
        budget.add_bytes(entry, 1)


def test_limits_are_for_bombs_and_not_for_little_files(tmp_path: Path) -> None:
    files = {"a.bin": bytes(19_000), "b.bin": b"1"}  # some hundred times the archive
    path = written(tmp_path, "set.zip", zipped(files.items()))
    assert contents(unpacked(path, tmp_path / "cache", limits=SMALL)) == files


def test_a_second_time_nothing_is_read_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "set.zip", STORED)
    found = unpacked(path, tmp_path / "cache")
    (found / "a.txt").write_bytes(b"by hand")
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert unpacked(path, tmp_path / "cache") == found
    monkeypatch.undo()
    moved = path.rename(tmp_path / "moved.zip")
    assert unpacked(moved, tmp_path / "cache") == found
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert unpacked(moved, tmp_path / "cache") == found
    assert (found / "a.txt").read_bytes() == b"by hand"


def test_another_content_is_another_folder(tmp_path: Path) -> None:
    path = written(tmp_path, "set.zip", STORED)
    before, status = unpacked(path, tmp_path / "cache"), path.stat()
    path.write_bytes(zipped([("set/a.jpg", b"PICTURE"), *list(FILES.items())[1:]], method=0))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    after = unpacked(path, tmp_path / "cache")
    assert (before / "a.jpg").read_bytes() == b"picture"
    assert (after / "a.jpg").read_bytes() == b"PICTURE"


@pytest.mark.parametrize("note", [None, b"", b"[1]", b"{", b'{"num_files": "x"}'])
def test_what_is_missing_is_unpacked_anew_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], note: bytes | None
) -> None:
    path = written(tmp_path, "set.zip", STORED)
    found = unpacked(path, tmp_path / "cache")
    if note is None:
        (found / "below" / "b.jpg").unlink()
    else:
        found.parent.with_suffix(".json").write_bytes(note)
    assert unpacked(path, tmp_path / "cache") == found
    assert contents(found.parent) == FILES
    assert f"{found.parent} lacks files" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_kill_the_next_one_finds_no_half_and_clears_up(tmp_path: Path) -> None:
    class Killing(Progress):
        def update(self, bar: object, completed: int, note: str = "") -> None:
            if note == "2 files":
                os._exit(9)

    path = written(tmp_path, "set.zip", STORED)
    child = os.fork()
    if child == 0:
        try:
            unpacked(path, tmp_path / "cache", Killing(enabled=False))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    archives = tmp_path / "cache" / "archives"
    (left,) = archives.glob(".unpacking-*")
    assert len(contents(left)) == 2
    other = written(tmp_path, "other.zip", zipped([("o/c.jpg", b"")]))
    unpacked(other, tmp_path / "cache")
    assert not left.exists()
    assert contents(unpacked(path, tmp_path / "cache").parent) == FILES


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    class Interrupting(Progress):
        def update(self, bar: object, completed: int, note: str = "") -> None:
            raise KeyboardInterrupt

    path = written(tmp_path, "set.zip", STORED)
    with pytest.raises(KeyboardInterrupt):
        unpacked(path, tmp_path / "cache", Interrupting(enabled=False))
    assert set(contents(tmp_path)) == {"set.zip", "cache/archives/.lock"}


def test_several_at_once_end_with_one_good_folder(tmp_path: Path) -> None:
    files = {f"set/{i}.jpg": bytes([i]) * 50_000 for i in range(50)}
    path = written(tmp_path, "set.zip", zipped(files.items()))
    barrier = Barrier(4)

    def unpack(_: int) -> Path:
        barrier.wait()
        return unpacked(path, tmp_path / "cache", Progress(enabled=False))

    with ThreadPoolExecutor(4) as pool:
        (found,) = set(pool.map(unpack, range(4)))
    assert contents(found.parent) == files
    beside = {each.name for each in found.parent.parent.iterdir()}
    assert beside == {found.parent.name, f"{found.parent.name}.json", ".lock"}


def test_what_the_disk_refuses_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = written(tmp_path, "set.zip", zipped([("a.bin", bytes(100_000))]))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"cannot be unpacked \(File too large.*data.cache.dir"):
            unpacked(path, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert set(contents(tmp_path)) == {"set.zip", "cache/archives/.lock"}
    assert contents(unpacked(path, tmp_path / "cache")) == {"a.bin": bytes(100_000)}


def test_no_archive_and_no_place_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.zip: cannot be read \(No such file"):
        unpacked(tmp_path / "none.zip", tmp_path)
    path = written(tmp_path, "set.zip", STORED)
    with pytest.raises(DataError, match=r"set\.zip: cannot be unpacked .*data\.cache\.dir"):
        unpacked(path, path)
