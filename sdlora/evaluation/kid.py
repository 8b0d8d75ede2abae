"""The kernel distance between the distributions of pictures and references."""

import warnings

import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

NUM_SUBSETS = 50


def kid(pictures: Tensor, references: Tensor) -> tuple[float, tuple[float, float]] | None:
    """Unbiased squared maximum mean discrepancy with a cubic kernel, usable with few pictures.

    The kernel is ``(<f, g> + 1) ** 3`` on unit features of whatever model (torchmetrics' polynomial
    kernel with ``gamma=1``): with the 1 / D of Inception's features differences would nearly
    vanish. Numbers are comparable only for the same features and numbers of pictures.

    Args:
        pictures: Unit rows, ``[n, D]``.
        references: Unit rows, ``[m, D]``.

    Returns:
        The mean over 50 random subsets of half the smaller set (of its size, below 8), and the
        middle 95 % of their normal distribution; about 0 for equal distributions, negative by
        chance.
        None with fewer than two pictures or references.

    Source:
        Binkowski et al. 2018, arXiv:1801.01401.
    """
    fewest = min(len(pictures), len(references))
    if fewest < 2:
        return None
    with warnings.catch_warnings():  # that it keeps all features, which are few here
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        metric = KernelInceptionDistance(
            feature=nn.Identity(),
            subsets=NUM_SUBSETS,
            subset_size=fewest if fewest < 8 else fewest // 2,
            gamma=1.0,
            sync_on_compute=False,
        )
    metric.update(references, real=True)
    metric.update(pictures, real=False)
    with torch.random.fork_rng(devices=[]):  # it draws its subsets from the global state
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed GPUs, too
        mean, spread = (float(value) for value in metric.compute())
    return mean, (mean - 1.96 * spread, mean + 1.96 * spread)
