"""Overlays named by the path of a user's own file."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from sdlora.cli.composition import register_schemas
from sdlora.cli.own_files import with_own_files
from sdlora.config.rules import ConfigError
from sdlora.runtime.places import CONF
from tests.composed import store_left_as_found


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "my own, files" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("defaults:\n  - override /optimizer: prodigy\nlora:\n  r: 3\n", "utf-8")
    return path


def composed(*given: str) -> DictConfig:
    register_schemas()
    with store_left_as_found(), initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", with_own_files(given))


def test_a_file_needs_neither_header_nor_folder(mine: Path) -> None:
    found = composed(f"experiment='{mine}'", "lora.alpha=1")
    assert (found.lora.r, found.lora.alpha, found.optim.name) == (3, 1, "prodigy")
    assert composed(f"debug='{mine}'").lora.r == 3


def test_a_relative_path_is_read_from_the_working_folder(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mine.parent)
    (mine.parent / "person.yaml").write_text("lora: {r: 5}", "utf-8")
    assert composed("experiment=mine.yaml").lora.r == 3
    assert composed("experiment=person.yaml").lora.r == 5  # and not the shipped one


def test_options_of_conf_stay_as_they_are() -> None:
    given = ["experiment=person", "experiment=person.yaml", "experiment=null", "lora=conv.yaml"]
    assert with_own_files(given) == given


def test_a_sweep_may_name_several(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mine.parent.rename(mine.parent.parent / "files")
    (folder / "other.yaml").write_text("lora: {r: 7}", "utf-8")
    monkeypatch.chdir(folder)
    (item,) = with_own_files(["experiment=mine.yaml,other.yaml"])
    assert item == f"experiment={folder}/mine.yaml,{folder}/other.yaml"


def test_what_is_no_file_of_keys_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"experiment=none/mine.yaml: there is no such file"):
        with_own_files(["experiment=none/mine.yaml"])
    (tmp_path / "list.yaml").write_text("- a", "utf-8")
    with pytest.raises(ConfigError, match="list.yaml: holds no keys"):
        with_own_files([f"experiment={tmp_path}/list.yaml"])
