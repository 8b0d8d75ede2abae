"""Epochs become the steps that hold as many batches."""

from pathlib import Path

import pytest

from sdlora.commands.train.epochs_to_steps import in_steps
from sdlora.config.epochs import EPOCH_KEYS
from sdlora.config.keys import all_keys
from sdlora.config.train import TrainConfig
from sdlora.runtime.progress import Progress
from tests.unit.commands.train.test_reuse import train_config
from tests.unit.data.stripes import Stripes, whole

# 7 squares and 3 wide ones, each twice: batches of 4 are ceil(14 / 4) + ceil(6 / 4) = 6
WIDE = (32, 16)
SIZES = ((16, 16), (16, 16), WIDE, (16, 16), (16, 16), WIDE, (16, 16), (16, 16), WIDE, (16, 16))


@pytest.mark.parametrize(
    ("key", "epochs", "window", "steps"),
    [
        ("trainer.max_epochs", 10, 1, 60),
        ("trainer.max_epochs", 1, 4, 2),  # 1.5 steps: the epoch is shown whole
        ("trainer.max_epochs", 0.1, 1, 1),
        ("trainer.max_epochs", 0.5, 1, 3),
        ("checkpoint.every_n_epochs", 2, 3, 4),
        ("sampling.every_n_epochs", 0.01, 1, 1),
        ("evaluation.every_n_epochs", 1, 1, 6),
    ],
)
def test_each_key_by_hand(
    key: str, epochs: float, window: int, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = train_config(
        Path("base"),
        f"{key}={epochs}",
        "data.batch_size=4",
        f"trainer.accumulate_grad_batches={window}",
    )
    pictures = whole(Stripes(10, sizes=SIZES, repeats=2))
    found = in_steps(config, pictures, Progress(enabled=False))
    group, _, name = EPOCH_KEYS[key].partition(".")
    assert getattr(getattr(found, group), name) == steps
    assert getattr(getattr(found, group), key.partition(".")[2]) is None
    assert capsys.readouterr().out == (
        f"{key}={epochs:g} is {EPOCH_KEYS[key]}={steps}: 6 batches an epoch, {window} in a step\n"
    )


def test_without_epochs_nothing_changes(capsys: pytest.CaptureFixture[str]) -> None:
    config = train_config(Path("base"), "data.batch_size=4")
    assert in_steps(config, whole(Stripes(10)), Progress(enabled=False)) is config
    assert capsys.readouterr().out == ""


def test_every_key_of_epochs_has_its_key_of_steps() -> None:
    known = all_keys(TrainConfig)
    assert {key for key in known if key.endswith("epochs")} == EPOCH_KEYS.keys()
    assert set(EPOCH_KEYS.values()) <= known.keys()
