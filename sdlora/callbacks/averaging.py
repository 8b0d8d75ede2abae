"""An average of the trained weights over the steps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from sdlora.callbacks.steps import OptimizerStepCallback
from sdlora.module import DiffusionModule


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

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Begin with the weights as they are, or go on with the restored average."""
        assert isinstance(pl_module, DiffusionModule)
        self.average = {
            name: self.average.get(name, parameter.detach()).to(parameter).clone()
            for name, parameter in pl_module.all_trained_parameters().items()
        }

    @torch.no_grad()
    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        """Move the average towards the weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = module.all_trained_parameters()
        names = list(self.average)
        torch._foreach_lerp_(
            [self.average[name] for name in names],
            [weights[name].detach() for name in names],
            1 - decay,
        )

    @contextmanager
    def applied(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Within the block the model has the averaged weights."""
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        copy_into(parameters, self.average)
        try:
            yield
        finally:
            copy_into(parameters, kept)

    def state_dict(self) -> dict[str, Any]:
        """The average, for the checkpoint."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average back from a checkpoint."""
        self.average = state_dict["average"]


@torch.no_grad()
def copy_into(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Overwrite parameters by name."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
