"""Averages of the trained weights, by EMA or by a schedule-free optimizer."""

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
        """Start from the current weights, or from the restored average."""
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
        """Put the averaged weights into the model, inside the block."""
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        copy_into(parameters, self.average)
        try:
            yield
        finally:
            copy_into(parameters, kept)

    def settle(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put the averaged weights into the model for good, after training."""
        copy_into(parameters, self.average)

    def state_dict(self) -> dict[str, Any]:
        """The average, for the checkpoint."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the average from a checkpoint."""
        self.average = state_dict["average"]


class ScheduleFreeAverage(Callback):
    """The average that a schedule-free optimizer keeps by itself.

    While such an optimizer trains, the model has the weights at which gradients are taken; ``eval``
    turns them into the average, in place, and ``train`` back again, but for rounding. Since
    ``train`` is not exact, the weights are restored from a copy. Checkpoints hold the weights that
    train; the average follows from them and the optimizer's state.

    Source:
        Defazio et al. 2024, arXiv:2405.15682; the package ``schedulefree``.
    """

    def __init__(self) -> None:
        self._optimizer: Any = None

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Keep the optimizer, which exists from here on."""
        self._optimizer = trainer.optimizers[0]

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Switch a new optimizer to training mode; a restored one is in it."""
        self._optimizer.train()

    @contextmanager
    def applied(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Put the averaged weights into the model, inside the block."""
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._optimizer.eval()
        try:
            yield
        finally:
            self._optimizer.train()
            copy_into(parameters, kept)

    def settle(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put the averaged weights into the model for good, after training."""
        self._optimizer.eval()


Average = ExponentialMovingAverage | ScheduleFreeAverage


@torch.no_grad()
def copy_into(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Overwrite parameters by name."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
