"""The config of a file's header under the overrides of now."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdlora.cli.arguments import opened_options
from sdlora.cli.composition import to_typed
from sdlora.commands.train.from_lora import compare_with_recipe, read_recipe, with_recipe
from sdlora.config.keys import as_written
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.runtime.progress import Progress
from tests.composed import composed_train

HASHES = {"data": "aa", "unet/diffusion_pytorch_model.safetensors": "bb"}
VERSIONS = {"sdlora": "0.1", "torch": "2"}


def config(*given: str) -> TrainConfig:
    """As ``train.py`` has it, of its command line."""
    arguments = [*opened_options(given, TrainConfig)]
    composed = composed_train(*arguments)
    return to_typed(with_recipe(composed, arguments), TrainConfig)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The header of a run unlike the defaults."""
    first = config(
        *("seed=5", "optim.options.eps=1e-7", "lora.r=3", "lora=conv", "data.batch_size=3"),
        *("sampling.seeds=[4,5]", "objective.min_snr_gamma=null", "scheduler=constant"),
    )
    stored = {"config": as_written(first), "hashes": HASHES, "versions": VERSIONS}
    header = {f"sdlora.{name}": json.dumps(value) for name, value in stored.items()}
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", header)
    return tmp_path / "a.safetensors"


def test_the_header_is_the_config(file: Path) -> None:
    again = as_written(config(f"from_lora={file}"))
    stored = read_recipe(file)["config"]
    assert again.pop("from_lora") == str(file)
    assert stored.pop("from_lora") is None
    assert again == stored


def test_overrides_win(file: Path) -> None:
    found = config(
        *(f"from_lora={file}", "seed=6", "lora.r=9", "sampling.seeds=[1]"),
        *("optim.options.weight_decay=0.5", "scheduler=cosine"),
    )
    assert (found.seed, found.lora.r, found.sampling.seeds) == (6, 9, [1])
    assert found.lora.parts == config("lora=conv").lora.parts
    assert found.scheduler.name == "cosine"
    assert found.data.batch_size == 3
    assert found.optim.options == {**config("optim.options.eps=1e-7").optim.options,
                                   "weight_decay": 0.5}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "alpha"), [((), 3), (("lora.r=9",), 9), (("lora.r=9", "lora.alpha=2"), 2)]
)
def test_another_rank_keeps_the_strength(file: Path, given: tuple[str, ...], alpha: float) -> None:
    assert config(f"from_lora={file}", *given).lora.alpha == alpha


def test_a_group_is_taken_whole(file: Path) -> None:
    found = config(f"from_lora={file}", "optimizer=sgd", "lora=attention")
    assert found.optim == config("optimizer=sgd").optim
    assert found.lora == config("lora=attention").lora


def test_other_content_is_refused_or_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same, other = config(f"from_lora={file}"), {**HASHES, "data": "cc"}
    progress = Progress(enabled=False)
    compare_with_recipe(same, HASHES, VERSIONS, progress)
    assert capsys.readouterr().out.split() == ["repeats", str(file)]
    with pytest.raises(ConfigError, match=r"from_lora=.*: data differs from that of the training"):
        compare_with_recipe(same, other, VERSIONS, progress)
    with pytest.raises(ConfigError, match=r"unet/.* differs .* or set a key of model"):
        compare_with_recipe(same, {**HASHES, list(HASHES)[1]: "dd"}, VERSIONS, progress)
    capsys.readouterr()
    moved = config(f"from_lora={file}", "data.root=examples", "seed=6")
    compare_with_recipe(moved, other, {**VERSIONS, "torch": "3"}, progress)
    shown = capsys.readouterr().out
    assert "seed: 5 in the file, 6 now" in shown
    assert "note: data differs from that of the training: no exact repeat" in shown
    assert "note: torch 2 in the file, 3 here" in shown
