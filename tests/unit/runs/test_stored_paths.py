"""Relative paths of a run, found again from another working folder."""

from pathlib import Path

import pytest

from sdlora.runs.run_config import read_config, write_config

CONFIG = {
    "data": {"root": "photos", "roots": [{"path": "more", "prefix": "photos"}], "source": "photos"},
    "model": {"path": "base"},
    "sampling": {"prompts": "example:prompts.txt"},
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("before/photos", "before/more", "before/base", "elsewhere/base"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "before")
    write_config(tmp_path / "run", CONFIG, {})
    return tmp_path / "run"


def test_where_it_began_nothing_changes(run: Path) -> None:
    assert read_config(run)[0] == CONFIG


def test_elsewhere_what_is_not_here_is_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent / "elsewhere")
    before = (run.parent / "before").as_posix()
    assert read_config(run)[0] == {
        "data": {
            "root": f"{before}/photos",
            "roots": [{"path": f"{before}/more", "prefix": "photos"}],
            "source": "photos",
        },
        "model": {"path": "base"},  # which is here, too
        "sampling": {"prompts": "example:prompts.txt"},
    }


def test_a_folder_of_an_older_version_tells_no_working_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (run / "config.json").read_text("utf-8")
    (run / "config.json").write_text(text.replace("working_folder", "other"), "utf-8")
    monkeypatch.chdir(run.parent / "elsewhere")
    assert read_config(run)[0] == CONFIG
