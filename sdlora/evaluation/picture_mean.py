"""A torchmetrics metric: the mean of one number per picture, which keeps every number."""

import torch
from torch import Tensor
from torchmetrics import Metric

from sdlora.evaluation.interval import bootstrap_interval


class PictureMean(Metric):
    """Mean over pictures; subclasses call ``take`` in ``update`` with the number of each picture.

    The numbers are kept in float64 on the CPU, where the mean does not depend on how the pictures
    were split into updates. With several processes the first alone has pictures, so nothing is
    synchronised; the same holds for every other metric here.
    """

    is_differentiable = False
    full_state_update = False

    kept: list[Tensor]

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        self.add_state("kept", [], dist_reduce_fx="cat")

    def take(self, values: Tensor) -> None:
        """Add one number for each picture, ``[n]``."""
        self.kept.append(values.detach().double().cpu())

    def compute(self) -> Tensor:
        """The mean; NaN before the first picture."""
        return self.each().mean()

    def each(self) -> Tensor:
        """The number of each picture so far, ``[n]``, float64."""
        return torch.cat([torch.zeros(0, dtype=torch.float64), *self.kept])

    def interval(self) -> tuple[float, float]:
        """Ends of the mean's 95 % bootstrap interval; needs a picture."""
        return bootstrap_interval(self.each().tolist())
