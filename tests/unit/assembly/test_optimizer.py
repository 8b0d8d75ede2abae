"""What only the libraries know of a config: which optimizer takes which rates and schedules."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdlora.assembly.lightning_trainer import average
from sdlora.assembly.optimizer import check_schedule, optimizer, schedule, trained_rates
from sdlora.commands.train.config_checks import check
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.runtime.places import CONF
from sdlora.training.callbacks.averaging import ExponentialMovingAverage, ScheduleFreeAverage
from sdlora.training.optimizers import (
    CUDA_ONLY,
    OPTIMIZERS,
    PACKAGES,
    averages_itself,
    optimizer_factory,
)
from tests.composed import train_config

PROMPTS = CONF.parent / "examples" / "prompts.txt"


class Averaging(torch.optim.SGD):
    """Stands for a schedule-free optimizer."""

    def train(self) -> None:
        """Nothing to swap out."""

    def eval(self) -> None:
        """Nothing to swap in."""


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is refused does not depend on what is installed."""
    monkeypatch.setitem(OPTIMIZERS, "schedule_free_adamw", lambda: Averaging)
    monkeypatch.setitem(OPTIMIZERS, "paged_adamw8bit", lambda: torch.optim.AdamW)


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainConfig]:
    monkeypatch.chdir(CONF.parent)

    def make(*overrides: str) -> TrainConfig:
        given = ["trainer.accelerator=cpu", *overrides]
        return train_config(*given)

    return make


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+optim.options.fused=true", "+optim.options.foreach=true"],
            "^optim.options=.*: adamw does not accept this value .*cannot be `True` together",
        ),
        (["+optim.options.capturable=true"], "^optim.options=.*: adamw does not accept this value"),
        (
            ["optimizer=prodigy", "optim.unet_lr=0.5"],
            "^optim.text_encoder_lr=1.0: prodigy takes one rate for all; set it to optim.unet_lr=0",
        ),
        (
            ["optimizer=prodigy", "optim.lora_plus_ratio=4"],
            "^optim.lora_plus_ratio=4.0: prodigy takes one rate for all; set it to null",
        ),
        (
            ["optimizer=schedule_free_adamw"],
            "^scheduler.name=cosine_with_restarts: schedule_free_adamw averages .* scheduler=const",
        ),
        (
            ["optimizer=schedule_free_adamw", "scheduler=constant", "trainer.ema_decay=0.9"],
            "^trainer.ema_decay=0.9: schedule_free_adamw averages the weights itself; set it to nu",
        ),
        (["optimizer=paged_adamw8bit"], "^optim.name=paged_adamw8bit: needs an NVIDIA GPU, .*8bit"),
    ],
)
def test_what_does_not_go_together_is_named(
    config: Callable[..., TrainConfig], overrides: list[str], message: str
) -> None:
    options: list[str] = []
    if "optimizer=schedule_free_adamw" in overrides:
        options = ["optim.options={weight_decay: 0.1}"]
    with pytest.raises(ConfigError, match=message):
        check(config(*overrides, *options))


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=prodigy"],
        ["optimizer=prodigy", "optim.unet_lr=0.5", "lora.text_encoder.method=frozen"],
        ["optimizer=schedule_free_adamw", "scheduler=constant"],
        ["optimizer=schedule_free_adamw", "scheduler=constant_with_warmup"],
        ["scheduler=cosine_annealing", "scheduler.per=epoch", "optim.lora_plus_ratio=16"],
        ["optimizer=adafactor"],
        ["optimizer=sgd"],
    ],
)
def test_what_goes_together_passes(
    config: Callable[..., TrainConfig], overrides: list[str]
) -> None:
    check(config(*overrides))


@pytest.mark.parametrize("path", sorted((CONF / "optimizer").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_optimizer_takes_its_options(
    config: Callable[..., TrainConfig], path: Path
) -> None:
    given = config(f"optimizer={path.stem}")
    assert given.optim.name == path.stem
    if path.stem in CUDA_ONLY and not torch.cuda.is_available():
        pytest.skip(f"{path.stem} needs an NVIDIA GPU")
    if path.stem in PACKAGES:
        pytest.importorskip(PACKAGES[path.stem].replace("-", "_"))
    if averages_itself(optimizer_factory(path.stem)):
        given.scheduler.name = "constant"  # as its file says
    check(given)


@pytest.mark.usefixtures("stand_ins")
def test_which_average_pictures_show() -> None:
    assert average(None, "adamw") is None
    assert isinstance(average(0.9, "adamw"), ExponentialMovingAverage)
    assert isinstance(average(None, "schedule_free_adamw"), ScheduleFreeAverage)


def rates_of(config: TrainConfig) -> dict[str, float]:
    return trained_rates(config.optim, config.lora, config.model.family)


def test_rates_are_those_of_the_parts_that_train(config: Callable[..., TrainConfig]) -> None:
    assert rates_of(config()) == {"unet": 3e-3, "text_encoder": 2e-4}
    frozen = config("lora.text_encoder.method=frozen")
    assert rates_of(frozen) == {"unet": 3e-3}
    named: dict[str, dict[str, Any]] = {"unet": {"w.lora_B": nn.Parameter(torch.ones(1))}}
    groups = optimizer(
        frozen.optim, {**named, "text_encoder": {}}, denoiser="unet", scales_loss=False
    ).param_groups
    assert [(group["name"], group["lr"]) for group in groups] == [("unet", 3e-3)]
    word = config("lora.text_encoder.method=frozen", "lora.new_word.name=zwk")
    assert rates_of(word) == {"unet": 3e-3, "new_word": 5e-3}
    rows = {"embeddings.new_rows": nn.Parameter(torch.ones(1))}
    groups = optimizer(
        word.optim, {**named, "text_encoder": rows}, denoiser="unet", scales_loss=False
    ).param_groups
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("unet", 3e-3),
        ("text_encoder_new_word", 5e-3),
    ]
    plus = config("optim.lora_plus_ratio=2")
    assert (
        optimizer(plus.optim, named, denoiser="unet", scales_loss=False).param_groups[0]["lr"]
        == 6e-3
    )


@pytest.mark.parametrize(
    ("accumulate", "devices", "nodes", "changes"),
    [
        (1, 1, 1, [3, 6]),
        (2, 1, 1, [2, 3, 5, 6]),
        (1, 2, 1, [2, 3, 5, 6]),
        (1, 1, 2, [2, 3, 5, 6]),
        (1, 3, 1, [1, 2, 3, 4, 5, 6, 7]),
        (2, 2, 3, [1, 2, 3, 4, 5, 6, 7]),  # twelve batches a step, four epochs
    ],
)
def test_epochs_are_counted_in_batches(
    config: Callable[..., TrainConfig],
    accumulate: int,
    devices: int,
    nodes: int,
    changes: list[int],
) -> None:
    """3 batches an epoch: with two a step, epochs end after steps 1.5, 3, 4.5 and 6."""
    given = config(
        "scheduler=cosine_annealing",
        "scheduler.per=epoch",
        "trainer.max_steps=8",
        f"trainer.accumulate_grad_batches={accumulate}",
        f"trainer.devices={devices}",
        f"trainer.num_nodes={nodes}",
    )
    driven = optimizer(
        given.optim,
        {"unet": {"w": nn.Parameter(torch.ones(1))}},
        denoiser="unet",
        scales_loss=False,
    )
    rates = schedule(given.scheduler, given.trainer, driven, batches_per_epoch=3)
    found = rates.get_last_lr()
    for _ in range(7):
        driven.step()
        rates.step()
        found += rates.get_last_lr()
    assert [step for step in range(1, 8) if found[step] != found[step - 1]] == changes
    steps_per_epoch = Fraction(3, accumulate * devices * nodes)
    assert min(steps_per_epoch, 1) * len(changes) <= 8


def test_a_rate_does_not_end_above_where_it_begins(config: Callable[..., TrainConfig]) -> None:
    def check(*given: str) -> None:
        told = config("scheduler=cosine_annealing", "scheduler.eta_min=1e-3", *given)
        check_schedule(told.scheduler, told.optim.name, None, rates_of(told))

    with pytest.raises(ConfigError, match=r"^scheduler.eta_min=0.001: is above optim.text_enc.*lr"):
        check("optim.unet_lr=2e-3")
    check("optim.unet_lr=2e-3", "lora.text_encoder.method=frozen")
