"""A file is there whole, or as it was before."""

import errno
import hashlib
import json
import math
import os
import stat
import tempfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from safetensors import SafetensorError

from sdlora.runtime.files import (
    WriteError,
    atomic_path,
    remove_stale_temporaries,
    sha256,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)
from sdlora.runtime.program import is_for_users


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n", encoding="utf-8")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        write()
    assert path.read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_an_error_leaves_no_file_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.txt"):
        raise KeyboardInterrupt
    assert names_in(tmp_path) == []


def test_the_new_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "weights.safetensors"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent  # a rename across file systems would be a copy
        assert temporary.suffix == ".safetensors"  # libraries choose the format by it
        assert temporary.is_file()
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names_in(path.parent) == ["weights.safetensors"]


def test_two_writers_at_once_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # the inner block ended before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_mode_is_that_of_a_file_opened_by_hand(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "a.bin", b"x")
        now = os.umask(umask)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == mode
    assert now == umask  # looking at it did not change it


def test_content_is_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b))[1])
    write_bytes(tmp_path / "a.bin", b"x")
    folder_too = [] if os.name == "nt" else ["sync"]
    assert done == ["sync", "rename", *folder_too]


def test_text_is_utf8_with_the_line_ends_given(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Zoë\n☃\r\n")
    assert (tmp_path / "a.txt").read_bytes() == b"Zo\xc3\xab\n\xe2\x98\x83\r\n"


def test_json_is_read_back_and_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"name": "Zoë", "scores": [1, 0.5, None]}
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value
    assert "Zoë" in path.read_text(encoding="utf-8")
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(path, {"score": number})
    assert json.loads(path.read_text(encoding="utf-8")) == value


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # the example of FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "a") == expected
    long = bytes(range(256)) * 5000  # more than one block of whatever size it is read in
    (tmp_path / "b").write_bytes(long)
    assert sha256(tmp_path / "b") == hashlib.sha256(long).hexdigest()


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    writer = atomic_path(tmp_path / "a.txt")
    left = writer.__enter__()  # and it never comes back, as after a kill
    (tmp_path / "kept.txt").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".writing-x.txt").write_bytes(b"")
    assert remove_stale_temporaries(tmp_path) == [left]
    assert names_in(tmp_path) == ["kept.txt", "sub"]
    assert names_in(tmp_path / "sub") == [".writing-x.txt"]
    assert remove_stale_temporaries(tmp_path) == []


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("writer", [atomic_path, whole_folder])
def test_a_full_disk_is_named_with_path_and_remedy(
    error: Exception, writer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(WriteError) as caught, writer(path):
        raise error
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value) == (
        f"{path}: cannot be written (No space left on device); free space on that disk, or choose "
        "a folder on another"
    )
    assert is_for_users(caught.value)
    assert names_in(tmp_path) == []


def test_a_closed_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*given: Any, **named: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", closed)
    with pytest.raises(WriteError, match="Read-only.*; make its folder writable, or choose anoth"):
        write_text(tmp_path / "a.txt", "a")


@pytest.mark.parametrize("error", [URLError("no network"), FileNotFoundError(2, "x"), KeyError()])
def test_other_errors_stay_as_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, atomic_path(tmp_path / "a.txt"):
        raise error
    assert caught.value is error
