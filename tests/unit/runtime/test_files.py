"""A file is there whole, or as it was before."""

import hashlib
import json
import math
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdlora.runtime.files import (
    atomic_path,
    remove_stale_temporaries,
    require_own,
    sha256,
    write_bytes,
    write_json,
    write_text,
)


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


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """Whoever owns the folder, and is not root."""
    user = 4321
    os.chown(tmp_path, user, user) if os.geteuid() == 0 else None
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    return owner


@pytest.mark.skipif(os.name != "posix", reason="permissions are others on Windows")
class TestOwnFolder:
    def test_a_folder_of_ones_own_is_taken(self, somebody: int, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        assert require_own(tmp_path, "data.cache.dir") == tmp_path
        missing = tmp_path / "not" / "there"
        assert require_own(missing, "data.cache.dir") == missing

    def test_what_everybody_can_write_is_not(self, somebody: int, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        for folder in (tmp_path, tmp_path / "not_there"):
            with pytest.raises(
                ValueError, match=r"^data\.cache\.dir=.*others can write"
            ) as refusal:
                require_own(folder, "data.cache.dir")
            code = re.search(r"\((chmod .*?)\)", str(refusal.value))
            assert code is not None
        subprocess.run(shlex.split(code[1]), check=True)  # the remedy
        assert require_own(tmp_path, "data.cache.dir") == tmp_path

    def test_a_new_folder_below_one_like_tmp_is_taken(self, somebody: int, tmp_path: Path) -> None:
        tmp_path.chmod(0o1777)
        assert require_own(tmp_path / "new", "data.cache.dir") == tmp_path / "new"
        with pytest.raises(ValueError, match="others can write"):
            require_own(tmp_path, "data.cache.dir")

    def test_a_group_counts_if_others_are_in_it(
        self, somebody: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tmp_path.chmod(0o775)
        for members, is_own in (([], True), (["me"], True), (["me", "friend"], False)):
            group = tmp_path.stat().st_gid
            own = SimpleNamespace(pw_gid=group, pw_name="me")
            monkeypatch.setattr("pwd.getpwuid", lambda number, own=own: own)
            entry = SimpleNamespace(gr_mem=members)
            monkeypatch.setattr("grp.getgrgid", lambda number, entry=entry: entry)
            if is_own:
                assert require_own(tmp_path, "data.cache.dir") == tmp_path
            else:
                with pytest.raises(ValueError, match="others can write"):
                    require_own(tmp_path, "data.cache.dir")

    def test_a_folder_of_somebody_else_is_not(
        self, somebody: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tmp_path.chmod(0o755)
        monkeypatch.setattr(os, "geteuid", lambda: somebody + 1)
        with pytest.raises(ValueError, match="belongs to another user"):
            require_own(tmp_path, "data.cache.dir")
        monkeypatch.setattr(os, "geteuid", lambda: 0)  # root in a container
        assert require_own(tmp_path, "data.cache.dir") == tmp_path
