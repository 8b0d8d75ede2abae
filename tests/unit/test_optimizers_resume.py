"""Every optimizer: stopped and resumed it ends as if it never had been, and what is shown of it."""

import copy
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sdlora.models.sd import StableDiffusion
from sdlora.runs.checkpoints import newest_valid
from sdlora.runtime.progress import Progress
from sdlora.training.callbacks.averaging import ScheduleFreeAverage
from sdlora.training.callbacks.every_n_steps import OptimizerStepCallback
from sdlora.training.callbacks.saving import Checkpoints
from sdlora.training.callbacks.speed import Throughput
from sdlora.training.module import DiffusionModule
from sdlora.training.optimizers import (
    OPTIMIZERS,
    PACKAGES,
    SCHEDULES,
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
}
VARIANTS = [
    *((name, OPTIONS.get(name, {})) for name in OPTIMIZERS if name != "schedule_free_adamw"),
    ("adamw", {"fused": True}),
]
"""The schedule-free one has a test of its own, with its average."""


def need(name: str) -> None:
    """Skip the test of an optimizer whose package is not there, by name."""
    if name in PACKAGES:
        reason = f"optim.name={name} needs {PACKAGES[name]}"
        pytest.importorskip(PACKAGES[name].replace("-", "_"), reason=reason)


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
        eta_min=1e-4,
        steps_per_epoch=Fraction(5, 2),
    )
    return module


def weights_of(module: DiffusionModule) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.all_trained_parameters().items()}


class Look(OptimizerStepCallback):
    """Notes at each step what is shown, and asserts that showing it changes nothing."""

    def __init__(self, average: ScheduleFreeAverage) -> None:
        self.average = average
        self.trained: list[dict[str, Tensor]] = []
        self.shown: list[dict[str, Tensor]] = []
        self.z: list[dict[str, Tensor]] = []

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        parameters = module.all_trained_parameters()
        state = trainer.optimizers[0].state
        self.z.append({name: state[p]["z"].clone() for name, p in parameters.items()})
        self.trained.append(weights_of(module))
        with self.average.applied(parameters):
            self.shown.append(weights_of(module))
        assert_equal(weights_of(module), self.trained[-1])


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def run(
    module: DiffusionModule,
    folder: Path,
    steps: int,
    checkpoint: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Tensor]:
    """The weights after ``steps`` steps, from the start or from a checkpoint."""
    save = Checkpoints(folder, 2, None, lambda _: None)
    trainer(folder, steps, [*callbacks, save], accumulate_grad_batches=2).fit(
        module,
        datamodule=Stream(accumulate=2),
        ckpt_path=None if checkpoint is None else str(checkpoint),
        weights_only=True,
    )
    return weights_of(module)


def stop_and_resume(
    family: StableDiffusion, folder: Path, make: Callable[[StableDiffusion], DiffusionModule]
) -> None:
    """Assert that the weights after 4 steps are those of 2 + 2, bit by bit, and none the first."""

    def fresh() -> DiffusionModule:
        return make(copy.deepcopy(family))

    whole = run(fresh(), folder / "whole", 4)
    assert not any(torch.equal(whole[name], old) for name, old in weights_of(fresh()).items())
    run(fresh(), folder / "parts", 2)
    checkpoint, skipped = newest_valid(folder / "parts")
    assert checkpoint is not None
    assert not skipped
    assert_equal(run(fresh(), folder / "parts", 4, checkpoint), whole)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: str(value))
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")
def test_every_optimizer_resumes_bit_by_bit(
    loaded_family: StableDiffusion, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    need(name)
    stop_and_resume(loaded_family, tmp_path, lambda family: module_with(family, name, options))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_resumes_bit_by_bit(
    loaded_family: StableDiffusion, tmp_path: Path, schedule: str
) -> None:
    """With LoRA+, and ``cosine_annealing`` by epochs of 5 batches, 2 batches a step."""

    def make(family: StableDiffusion) -> DiffusionModule:
        return module_with(family, "adamw", {}, schedule=schedule, lora_plus_ratio=4)

    stop_and_resume(loaded_family, tmp_path, make)


def test_schedule_free_resumes_bit_by_bit_while_its_average_is_shown(
    loaded_family: StableDiffusion, tmp_path: Path
) -> None:
    need("schedule_free_adamw")

    def part(folder: str, steps: int, checkpoint: Path | None = None) -> Look:
        module = module_with(
            copy.deepcopy(loaded_family), "schedule_free_adamw", {"weight_decay": 0.01}
        )
        average = ScheduleFreeAverage()
        look = Look(average)
        trained = run(module, tmp_path / folder, steps, checkpoint, [average, look])
        assert_equal(trained, look.trained[-1])
        average.settle(module.all_trained_parameters())
        assert_equal(weights_of(module), look.shown[-1])
        return look

    whole = part("whole", 4)
    part("parts", 2)
    checkpoint, _ = newest_valid(tmp_path / "parts")
    assert checkpoint is not None
    resumed = part("parts", 4, checkpoint)
    for name in ("trained", "shown", "z"):
        assert_equal(getattr(resumed, name)[-1], getattr(whole, name)[-1])
    # a run that had ended, resumed: nothing is trained, and the model has the average
    checkpoint, _ = newest_valid(tmp_path / "parts")
    module = module_with(
        copy.deepcopy(loaded_family), "schedule_free_adamw", {"weight_decay": 0.01}
    )
    average = ScheduleFreeAverage()
    assert_equal(run(module, tmp_path / "parts", 4, checkpoint, [average]), whole.trained[-1])
    average.settle(module.all_trained_parameters())
    assert_equal(weights_of(module), whole.shown[-1])


def test_what_schedule_free_shows_is_the_average(
    loaded_family: StableDiffusion, tmp_path: Path
) -> None:
    """At a constant rate it is the plain mean of the optimizer's own points z (eq. 5 of the paper).

    The weights that train lie between both: 0.1 z + 0.9 of the mean, with beta1 = 0.9.
    """
    need("schedule_free_adamw")
    module = module_with(
        copy.deepcopy(loaded_family), "schedule_free_adamw", {}, schedule="constant"
    )
    average = ScheduleFreeAverage()
    look = Look(average)
    run(module, tmp_path, 4, callbacks=[average, look])
    for step in range(4):
        for name, shown in look.shown[step].items():
            mean = torch.stack([z[name].double() for z in look.z[: step + 1]]).mean(0)
            torch.testing.assert_close(shown.double(), mean, rtol=0, atol=1e-6)  # float32
            between = 0.1 * look.z[step][name].double() + 0.9 * mean
            torch.testing.assert_close(
                look.trained[step][name].double(), between, rtol=0, atol=1e-6
            )
    moved = max((look.shown[3][n] - look.trained[3][n]).abs().max().item() for n in look.shown[3])
    assert moved > 1e-4


def test_each_groups_rate_is_logged_by_its_name(family: StableDiffusion, tmp_path: Path) -> None:
    module = module_with(family, "adamw", {}, schedule="constant", lora_plus_ratio=4)
    metrics = tmp_path / "metrics.jsonl"
    speed = Throughput(12, Progress(enabled=False), tmp_path, log_every_n_steps=1)
    run(module, tmp_path, 1, callbacks=[speed])
    (line,) = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    found = {key: value for key, value in line.items() if key.startswith("train/lr_")}
    assert found == {
        "train/lr_unet": 0.01,
        "train/lr_unet_b": 0.04,
        "train/lr_text_encoder": 0.01,
        "train/lr_text_encoder_b": 0.04,
    }
