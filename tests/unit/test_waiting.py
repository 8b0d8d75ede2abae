"""A training step queues its work on the device and does not wait for it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdlora.data.batches.dataset import Batch
from sdlora.diffusion.huber import Huber
from sdlora.diffusion.training_noise import TrainingNoise
from sdlora.models.sd import StableDiffusion
from sdlora.training.module import DiffusionModule, Teacher
from tests.unit.tiny_training import adapted, batch, diffusion_module, without_trainer

DEVICE = torch.device("meta")  # knows shapes and no numbers: whoever asks for one gets an error


class Waits(TorchDispatchMode):
    """Notes copies to or from the device that wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_copy = func is torch.ops.aten._to_copy.default
        if is_copy and kwargs.get("device") not in (None, args[0].device):
            self.copies += 1
            if not kwargs.get("non_blocking"):
                self.found.append(f"copy of {tuple(args[0].shape)}")
        return func(*args, **kwargs)


def plain(module: DiffusionModule) -> None:
    """Min-SNR weights, as the module comes."""


def huber(module: DiffusionModule) -> None:
    module.objective = replace(module.objective, huber=Huber(0.1, "snr"))


def noise(module: DiffusionModule) -> None:
    drawn = TrainingNoise(offset=0.1, pyramid_iterations=3, perturbation=0.1)
    module.objective = replace(module.objective, training_noise=drawn)


def teacher(module: DiffusionModule) -> None:
    module.teacher = Teacher(torch.zeros(1, 77, dtype=torch.int64), 1.0)


def on_device(batch: Batch) -> Batch:
    weights = torch.ones(len(batch))
    return replace(batch, weights=weights, mask=torch.ones(len(batch), 1, 8, 8)).to(DEVICE)


@pytest.mark.parametrize("change", [plain, huber, noise, teacher])
def test_a_step_waits_for_nothing(family: StableDiffusion, change: Any) -> None:
    module = without_trainer(diffusion_module(adapted(family, ("unet", "text_encoder"))))
    change(module)
    module.to(DEVICE)
    step = stepping(module)
    step(0)  # what stays on the device goes there once
    with Waits() as waits:
        step(2)
    assert waits.copies >= 3  # of noise, timesteps and the posterior's draws
    assert waits.found == []


def stepping(module: DiffusionModule) -> Any:
    """Steps between two points of the curves: at one, the loss is looked at."""
    module._trainer = cast(Any, SimpleNamespace(global_step=1))
    module.check_every_n_steps = 10

    def step(first: int) -> None:
        module.training_step(on_device(batch(first)), 0).backward()

    return step
