"""Paths of the config: of the working folder, of the user, or of a shipped example."""

import re
from pathlib import Path

import pytest

from sdlora.runtime.places import CONF, located, shipped


def test_a_path_is_seen_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples" / "portraits").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert located("examples/portraits").resolve() == tmp_path / "examples" / "portraits"
    assert located("~/pictures") == Path.home() / "pictures"


def test_an_example_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    (tmp_path / "portraits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert located("example:portraits") == repository / "examples" / "portraits"
    assert located("example:ink/held_out") == repository / "examples" / "ink" / "held_out"


def test_what_the_configs_name_is_shipped() -> None:
    texts = [path.read_text("utf-8") for path in CONF.rglob("*.yaml")]
    named = {name for text in texts for name in re.findall(r"example:([\w./]+)", text)}
    assert named == {"portraits", "prompts.txt", "style_prompts.txt", "ink"}
    assert all((shipped("examples") / name).exists() for name in named)
    assert not any(re.search(r": *examples/", text) for text in texts)
