"""Averages of the trained weights, which pictures, scores and saved adapters show."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from sdlora.training.callbacks.every_n_steps import OptimizerStepCallback
from sdlora.training.module import DiffusionModule


class ExponentialMovingAverage(OptimizerStepCallback):
    """An average of the trained weights over the steps, which replaces them at the end.

    The decay warms up as ``min(decay, (1 + n) / (10 + n))``, so that the average forgets the
    start (as in TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).

    Args:
        decay: Share of the old average that each step keeps; [0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._weights: list[Tensor] = []

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Begin with the weights as they are, or go on with the restored average."""
        assert isinstance(pl_module, DiffusionModule)
        trained = pl_module.all_trained_parameters()
        self.average = {
            name: self.average.get(name, parameter.detach()).to(parameter).clone()
            for name, parameter in trained.items()
        }
        self._weights = [parameter.detach() for parameter in trained.values()]

    @torch.no_grad()
    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Move the average towards the weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), self._weights, 1 - decay)

    @contextmanager
    def applied(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Within the block the model has the averaged weights."""
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        copy_into(parameters, self.average)
        try:
            yield
        finally:
            copy_into(parameters, kept)

    def settle(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Training is over: the model keeps the averaged weights."""
        copy_into(parameters, self.average)

    def state_dict(self) -> dict[str, Any]:
        """The average, for the checkpoint."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average back from a checkpoint."""
        self.average = state_dict["average"]


class ScheduleFreeAverage(Callback):
    """The average that a schedule-free optimizer keeps by itself.

    While such an optimizer trains, the model has the weights at which gradients are taken; ``eval``
    turns them into the average, in place, and ``train`` back again, but for rounding. So that
    looking does not change the training, the weights are put back as they were. Checkpoints hold
    the weights that train; the average follows from them and the optimizer's state.

    Source:
        Defazio et al. 2024, arXiv:2405.15682; the package ``schedulefree``.
    """

    def __init__(self) -> None:
        self._optimizer: Any = None

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Take the optimizer, which exists from here on."""
        self._optimizer = trainer.optimizers[0]

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """A new optimizer is told that training begins; a restored one knows."""
        self._optimizer.train()

    @contextmanager
    def applied(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Within the block the model has the averaged weights."""
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._optimizer.eval()
        try:
            yield
        finally:
            self._optimizer.train()
            copy_into(parameters, kept)

    def settle(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Training is over: the model keeps the averaged weights."""
        self._optimizer.eval()


Average = ExponentialMovingAverage | ScheduleFreeAverage


@torch.no_grad()
def copy_into(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Overwrite parameters by name."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
