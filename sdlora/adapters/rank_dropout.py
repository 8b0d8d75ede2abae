"""Dropout of single ranks of an adapter's update."""

from torch import Tensor, nn


class RankDropout:
    """A forward hook on a matrix A: while training, each sample loses some ranks of its update.

    Those that stay are scaled by ``1 / (1 - p)``, so that the mean stays. The draw comes from
    torch's generator, which the training step seeds.

    Args:
        p: Probability of a rank to be dropped, [0, 1).

    Source:
        kohya-ss/sd-scripts, networks/lora.py, ``rank_dropout``.
    """

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """``A x``, ``[B, ..., r]`` of a Linear or ``[B, r, h, w]`` of a Conv2d, with zeros."""
        if not layer.training:
            return output
        ranks = 1 if isinstance(layer, nn.Conv2d) else output.ndim - 1
        shape = [n if axis in (0, ranks) else 1 for axis, n in enumerate(output.shape)]
        return output * nn.functional.dropout(output.new_ones(shape), self.p)
