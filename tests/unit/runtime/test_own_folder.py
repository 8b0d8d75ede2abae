"""A folder of one's own is taken; one that others can change is refused with what mends it."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdlora.runtime.own_folder import require_own


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
