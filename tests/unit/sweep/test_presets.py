"""Every preset of ``conf/sweep`` starts a sweep of cells that can run."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from sdlora.cli.composition import register_schemas
from sdlora.runtime.places import CONF
from tests.composed import train_config

PRESETS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
CELLS = {"alpha": 5, "rank_lr": 8, "seeds": 5, "style_ranks": 4}
SEARCHES = ("search",)


def composed(*overrides: str) -> Any:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = compose("train", ["run_dir=here", *overrides], return_hydra_config=True)
    OmegaConf.set_struct(found, False)
    return found


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in SEARCHES])
def test_a_preset_is_a_grid_of_runs(name: str) -> None:
    hydra = composed(f"sweep={name}").hydra
    assert hydra.mode == RunMode.MULTIRUN
    params = OmegaConf.to_container(hydra.sweeper.params, resolve=False)
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    choices = [
        [f"{item.key_or_group}={text}" for text in item.sweep_string_iterator()]
        if item.is_sweep_override()
        else [str(item.input_line)]
        for item in parsed
    ]
    grid = list(itertools.product(*choices))
    assert len(grid) == CELLS[name]
    for cell in (grid[0], grid[-1]):
        train_config(*cell)


@pytest.mark.parametrize("experiment", ["anime_style", "ink_style"])
def test_the_ranks_of_a_style_have_twice_as_much_alpha(experiment: str) -> None:
    """And captions are empty."""
    params = composed("sweep=style_ranks").hydra.sweeper.params
    assert params == {"lora.r": "4,8,16,32"}
    for rank in (4, 8, 16, 32):
        config = train_config(f"experiment={experiment}", "data.root=ink", f"lora.r={rank}")
        assert (config.lora.r, config.lora.alpha) == (rank, 2.0 * rank)
        assert (config.data.captions.endings, config.data.captions.default) == ([], "")


def test_each_preset_is_told_of() -> None:
    text = (Path(CONF).parent / "docs" / "sweeps.md").read_text("utf-8")
    assert [name for name in PRESETS if f"| `{name}` |" not in text] == []
