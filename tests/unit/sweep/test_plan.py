"""The cells of a sweep, the names of their folders, and ``sweep.yaml``."""

from pathlib import Path

import pytest
import yaml

from sdlora.config.rules import ConfigError
from sdlora.sweep.plan import (
    Planned,
    SweptKey,
    cells,
    folder_name,
    read_planned,
    refuse_other_kind,
    sweep_name,
    write_sweep,
)

RANKS = SweptKey("lora.r", "lora.r", ["4", "8"], [4, 8])
RATES = SweptKey("optim.unet_lr", "optim.unet_lr", ["0.001", "0.1"], [0.001, 0.1])
GROUPS = SweptKey("lora", "lora", ["conv"], ["conv"])


def test_the_last_key_changes_first() -> None:
    found = cells([RANKS, RATES])
    assert [cell.number for cell in found] == [0, 1, 2, 3]
    assert [cell.folder for cell in found] == [
        "lora.r=4,optim.unet_lr=0.001",
        "lora.r=4,optim.unet_lr=0.1",
        "lora.r=8,optim.unet_lr=0.001",
        "lora.r=8,optim.unet_lr=0.1",
    ]
    assert found[1].overrides == {"lora.r": 4, "optim.unet_lr": 0.1}
    assert found[1].arguments == ["lora.r=4", "optim.unet_lr=0.1"]


def test_equal_cells_are_one_and_no_key_gives_one() -> None:
    assert len(cells([SweptKey("seed", "seed", ["1", "1"], [1, 1])])) == 1
    assert [cell.folder for cell in cells([])] == ["run"]


def test_an_added_key_is_launched_with_its_plus() -> None:
    (cell,) = cells([SweptKey("optim.options.eps", "++optim.options.eps", ["1e-6"], [1e-6])])
    assert cell.arguments == ["++optim.options.eps=1e-6"]
    assert cell.folder == "optim.options.eps=1e-6"


def test_a_name_is_a_function_of_the_command_but_not_of_its_order() -> None:
    name = sweep_name([RANKS, RATES], ["model=sd15", "seed=1"])
    assert name.startswith("lora.r,optim.unet_lr-")
    assert name == sweep_name([RANKS, RATES], ["seed=1", "model=sd15"])
    others = [
        sweep_name([RANKS, RATES], ["seed=2", "model=sd15"]),
        sweep_name([RANKS], ["seed=1", "model=sd15"]),
        sweep_name([GROUPS], []),
    ]
    assert len({name, *others}) == 4


def test_what_cannot_name_a_folder_is_replaced_and_told_apart() -> None:
    assert folder_name("lora.r=4,seed=1") == "lora.r=4,seed=1"
    odd = [folder_name(f"data.root={path}") for path in ("a/b", "a:b", "a\\b", "a*b")]
    assert len(set(odd)) == 4
    assert all(name.startswith("data.root=a_b-") for name in odd)
    assert folder_name("x" * 101) != folder_name("x" * 102)
    assert len(folder_name("x" * 300)) == 100 + 1 + 8


def write(folder: Path, shared: list[str]) -> None:
    write_sweep(folder, "mine", ["lora.r=4,8", *shared], [RANKS], shared, cells([RANKS]))


def test_sweep_yaml_lists_the_cells(tmp_path: Path) -> None:
    write(tmp_path, ["seed=1"])
    assert yaml.safe_load((tmp_path / "sweep.yaml").read_text("utf-8")) == {
        "version": 1,
        "name": "mine",
        "command": ["lora.r=4,8", "seed=1"],
        "swept": {"lora.r": [4, 8]},
        "shared": ["seed=1"],
        "num_cells": 2,
        "cells": [
            {"number": 0, "folder": "lora.r=4", "overrides": {"lora.r": 4}},
            {"number": 1, "folder": "lora.r=8", "overrides": {"lora.r": 8}},
        ],
    }
    folders = [tmp_path / "lora.r=4", tmp_path / "lora.r=8"]
    assert read_planned(tmp_path) == Planned(folders, 2)


def test_a_folder_takes_no_cells_that_do_not_compare_with_those_in_it(tmp_path: Path) -> None:
    write(tmp_path, ["seed=1", "model=sd15"])
    write(tmp_path, ["model=sd15", "seed=1"])  # the order does not matter
    with pytest.raises(ConfigError, match="^sweep.name=mine: .* choose another name") as error:
        write(tmp_path, ["seed=2", "model=sd15"])
    assert str(error.value).splitlines()[1:] == ["  seed=1", "  seed=2"]


def test_a_search_does_not_go_where_a_grid_is(tmp_path: Path) -> None:
    for is_search in (True, False):
        refuse_other_kind(tmp_path, is_search)  # an empty folder takes both
    write(tmp_path, [])
    refuse_other_kind(tmp_path, is_search=False)
    with pytest.raises(ConfigError, match="holds a grid, this is a search; choose another name"):
        refuse_other_kind(tmp_path, is_search=True)
    (tmp_path / "study.journal").touch()
    refuse_other_kind(tmp_path, is_search=True)
    with pytest.raises(ConfigError, match="holds a search, this is a grid; choose another name"):
        refuse_other_kind(tmp_path, is_search=False)


def test_a_damaged_list_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("shared: [", "utf-8")
    write(tmp_path, [])
    assert len(read_planned(tmp_path).folders) == 2
