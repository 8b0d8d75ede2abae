"""What is known of a file is used only while the file is surely the same."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sdlora.data.sources.file_index import RACY_NS, FileIndex, FileKey, PictureFacts
from tests.places import REPOSITORY

HOUR_NS = 3_600 * 10**9
READ_NS = 1_700_000_000 * 10**9
FACTS = PictureFacts("ab" * 32, 640, 480, True, False)


def key(path: str = "a.png", **changes: int) -> FileKey:
    return FileKey(path, 123, READ_NS - HOUR_NS, READ_NS - HOUR_NS)._replace(**changes)


def test_facts_outlive_the_process_that_found_them(tmp_path: Path) -> None:
    caption = key("a.txt")
    with FileIndex(tmp_path / "new" / "index") as index:
        assert index.pictures([key()]) == index.captions([caption]) == {}
        index.store_pictures({key(): FACTS}, READ_NS)
        index.store_captions({caption: "two\nlines ü"}, READ_NS)
    with FileIndex(tmp_path / "new" / "index") as index:
        assert index.pictures([key(), key("b.png")]) == {"a.png": FACTS}
        assert index.captions([caption]) == {"a.txt": "two\nlines ü"}
        assert index.captions([key()]) == {}
        assert index.notes == []


@pytest.mark.parametrize("part", ["num_bytes", "mtime_ns", "ctime_ns"])
def test_a_changed_file_is_not_known(part: str) -> None:
    changed = key(**{part: getattr(key(), part) + 1})
    with FileIndex(None) as index:
        index.store_pictures({key(): FACTS}, READ_NS)
        assert index.pictures([key()]) == {"a.png": FACTS}
        assert index.pictures([changed]) == {}
        newer = FACTS._replace(width=1)
        index.store_pictures({changed: newer}, READ_NS)
        assert index.pictures([changed]) == {"a.png": newer}
        assert index.pictures([key()]) == {}


@pytest.mark.parametrize(
    ("age_ns", "is_kept"), [(RACY_NS, True), (RACY_NS - 1, False), (-1, False)]
)
def test_a_file_that_was_just_written_is_read_again(age_ns: int, is_kept: bool) -> None:
    file = key(mtime_ns=READ_NS - age_ns)
    with FileIndex(None) as index:
        index.store_captions({file: "a caption"}, READ_NS)
        assert bool(index.captions([file])) == is_kept


def test_many_files_and_any_name() -> None:
    names = [f"{number}.png" for number in range(2_000)]
    names += ["line\nbreak.png", "quote'\".png", "雪.png", os.fsdecode(b"latin-\xe9.png")]
    with FileIndex(None) as index:
        index.store_pictures({key(name): FACTS for name in names[::2]}, READ_NS)
        assert set(index.pictures([key(name) for name in names])) == set(names[::2])


def test_values_by_content_and_kind(tmp_path: Path) -> None:
    contents = [f"{number:064x}" for number in range(2_000)]
    with FileIndex(tmp_path / "index") as index:
        index.store_facts("phash", {content: content[-4:] for content in contents})
        index.store_facts("decode", {contents[0]: ""})
        index.store_facts("decode", {contents[0]: "is cut off", contents[1]: ""})
    with FileIndex(tmp_path / "index") as index:
        asked = [*contents[:1_500], "ff" * 32]
        assert index.facts("phash", asked) == {content: content[-4:] for content in asked[:-1]}
        assert index.facts("decode", asked) == {contents[0]: "is cut off", contents[1]: ""}
        assert index.facts("sharpness", asked) == {}


def filled(path: Path) -> Path:
    with FileIndex(path) as index:
        index.store_pictures({key(f"{number}.png"): FACTS for number in range(500)}, READ_NS)
    return path


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("rb+") as file:
        file.seek(start)
        file.write(data)


@pytest.mark.parametrize("sort", ["no database", "header", "pages", "cut"])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, sort: str) -> None:
    path = filled(tmp_path / "index")
    num_bytes = path.stat().st_size
    if sort == "no database":
        path.write_text("this was written by somebody else\n" * 100)
    elif sort == "header":
        overwrite(path, 0, bytes(90))
    elif sort == "pages":
        overwrite(path, 4096, b"\xff" * (num_bytes - 4096))
    else:
        os.truncate(path, num_bytes // 2)
    with FileIndex(path) as index:
        assert index.pictures([key(f"{number}.png") for number in range(500)]) == {}
        index.store_pictures({key(): FACTS}, READ_NS)
        (note,) = index.notes
        assert str(path) in note
        assert "is created again" in note
    with FileIndex(path) as index:
        assert index.pictures([key()]) == {"a.png": FACTS}
        assert index.notes == []


def test_rows_that_meet_damage_are_written_to_the_new_file(tmp_path: Path) -> None:
    path = filled(tmp_path / "index")
    overwrite(path, 4096, b"\xff" * (path.stat().st_size - 4096))
    with FileIndex(path) as index:
        index.store_pictures({key(): FACTS}, READ_NS)
        assert index.pictures([key()]) == {"a.png": FACTS}
        assert "is created again" in index.notes[0]


def test_a_file_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "index") as other:
        other.execute("CREATE TABLE pictures (something, different)")
        other.execute("PRAGMA user_version = 99")
    other.close()
    with FileIndex(tmp_path / "index") as index:
        index.store_pictures({key(): FACTS}, READ_NS)
        assert index.pictures([key()]) == {"a.png": FACTS}


def test_a_place_that_cannot_hold_it_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with FileIndex(tmp_path / "file" / "index") as index:
        assert "is not used in this run" in index.notes[0]
        index.store_pictures({key(): FACTS}, READ_NS)
        assert index.pictures([key()]) == {"a.png": FACTS}  # for as long as it is open


def test_a_locked_file_is_done_without(tmp_path: Path) -> None:
    path = filled(tmp_path / "index")
    with FileIndex(path, wait_s=0.0) as index:
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        assert len(index.pictures([key("1.png")])) == 1
        index.store_facts("phash", {"content": "value"})
        index.store_facts("decode", {"content": ""})
        assert index.facts("phash", ["content"]) == {"content": "value"}
        assert len(index.notes) == 1
        assert "locked" in index.notes[0]
        other.close()


WRITER = """
import sys
from pathlib import Path
from sdlora.data.sources.file_index import FileIndex
with FileIndex(Path(sys.argv[1])) as index:
    for number in range(100):
        index.store_facts(sys.argv[2], {str(number): "done"})
    print(index.notes)
"""


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "index")]
    writers = [
        subprocess.Popen([*command, name], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for name in ("first", "second", "third")
    ]
    for writer in writers:
        output, _ = writer.communicate(timeout=60)
        assert (writer.returncode, output) == (0, "[]\n")
    with FileIndex(tmp_path / "index") as index:
        for name in ("first", "second", "third"):
            assert len(index.facts(name, [str(number) for number in range(100)])) == 100
