"""Every optimizer: stopped and resumed it ends as if it never had been, and what is shown of it."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from sdlora.build.parts import average as average_of
from sdlora.callbacks.averaging import ScheduleFreeAverage
from sdlora.callbacks.saving import Checkpoints
from sdlora.callbacks.steps import OptimizerStepCallback
from sdlora.checkpoint import newest_valid
from sdlora.models.sd import StableDiffusion
from sdlora.module import DiffusionModule
from sdlora.optim import (
    OPTIMIZERS,
    PACKAGES,
    averages_itself,
    build_optimizer,
    build_schedule,
    parameter_groups,
)
from tests.unit.tiny_training import Stream, adapted, diffusion_module, trainer

PARTS = ("unet", "text_encoder")

OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "nesterov": True},
    "adamw8bit": {"min_8bit_size": 1},  # the tiny adapters would keep 32-bit moments
    "paged_adamw8bit": {"min_8bit_size": 1},
    "prodigy": {"use_bias_correction": True, "safeguard_warmup": True},
    "schedule_free_adamw": {"weight_decay": 0.01, "r": 1.0},
}
VARIANTS = [(name, OPTIONS.get(name, {})) for name in OPTIMIZERS] + [("adamw", {"fused": True})]


def installed(name: str) -> str:
    """The optimizer's name; a test of one whose package is not there is skipped by name."""
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name].replace("-", "_"), reason=f"pip install {PACKAGES[name]}")
    return name


def module_with(
    family: StableDiffusion,
    name: str,
    options: dict[str, Any],
    *,
    schedule: str = "constant_with_warmup",
    lora_plus_ratio: float | None = None,
    num_steps: int = 4,
) -> DiffusionModule:
    module = diffusion_module(adapted(family, PARTS, dropout=0.2))
    rates = {"unet": 0.01, "text_encoder": 0.01}
    module.make_optimizer = lambda parts: build_optimizer(
        name, parameter_groups(parts, rates, lora_plus_ratio), options
    )
    module.make_schedule = lambda optimizer: build_schedule(
        schedule,
        optimizer,
        warmup_steps=1,
        num_steps=num_steps,
        num_cycles=1,
        eta_min=1e-4 if schedule == "cosine_annealing" else None,
    )
    return module


def weights_of(module: DiffusionModule) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.all_trained_parameters().items()}


class Look(OptimizerStepCallback):
    """Notes at each step the weights that train, and those that are shown."""

    def __init__(self, average: ScheduleFreeAverage | None) -> None:
        self.average = average
        self.trained: list[dict[str, Tensor]] = []
        self.shown: list[dict[str, Tensor]] = []

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        self.trained.append(weights_of(module))
        if self.average is not None:
            with self.average.applied(module.all_trained_parameters()):
                self.shown.append(weights_of(module))
            after = weights_of(module)
            assert all(torch.equal(after[n], w) for n, w in self.trained[-1].items())


def stopped_and_resumed(
    loaded_family: StableDiffusion, folder: Path, make: Callable[..., DiffusionModule]
) -> None:
    """Asserts that weights and optimizer state after 4 steps are those of 2 + 2, bit by bit."""

    def run(name: str, steps: int, checkpoint: Path | None = None) -> dict[str, Tensor]:
        module = make(copy.deepcopy(loaded_family))
        save = Checkpoints(folder / name, 2, None, lambda _: None)
        training = trainer(folder, steps, [save], accumulate_grad_batches=2)
        average = ScheduleFreeAverage()
        probe = module.make_optimizer(
            {p: copy.deepcopy(module).trained_parameters(p) for p in PARTS}
        )
        if averages_itself(type(probe)):
            training.callbacks.insert(0, average)  # type: ignore[attr-defined]
            training.callbacks.insert(1, Look(average))  # type: ignore[attr-defined]
        training.fit(
            module,
            datamodule=Stream(accumulate=2),
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True,
        )
        return weights_of(module)

    start = weights_of(make(copy.deepcopy(loaded_family)))
    whole = run("whole", 4)
    assert all(not torch.equal(start[name], weight) for name, weight in whole.items())
    run("parts", 2)
    checkpoint, skipped = newest_valid(folder / "parts")
    assert checkpoint is not None
    assert not skipped
    resumed = run("parts", 4, checkpoint)
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=[f"{n}-fused" if o.get("fused") else n for n, o in VARIANTS]
)
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")
def test_every_optimizer_resumes_bit_by_bit(
    loaded_family: StableDiffusion, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    installed(name)
    stopped_and_resumed(
        loaded_family, tmp_path, lambda family: module_with(family, name, options)
    )
