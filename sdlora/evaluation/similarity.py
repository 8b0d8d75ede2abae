"""Similarity of pictures to references, to each other and to training pictures, by features."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.evaluation.picture_mean import PictureMean

SAME_PICTURE = 0.999
"""Cosine from which two training pictures count as one picture, and not for the yardstick of
copies."""


def image_similarity(pictures: Tensor, references: Tensor) -> Tensor:
    """Mean cosine of each picture with all references; higher is closer.

    Args:
        pictures: Unit rows, ``[n, D]``.
        references: Unit rows, ``[m, D]``, m >= 1.

    Returns:
        ``mean_j <p_i, r_j>``, ``[n]``, in [-1, 1].

    Raises:
        ValueError: If there is no reference, or the widths differ.

    Source:
        CLIP-I and DINO of DreamBooth, Ruiz et al. 2022, arXiv:2208.12242, section 4.1.
    """
    _require_alike(pictures, references, "references")
    return (pictures @ references.T).mean(dim=1)


def diversity(features: Tensor, groups: Sequence[Hashable]) -> Tensor:
    """Difference of the pictures of one prompt; higher is more varied, as is noise.

    Args:
        features: Unit rows, ``[n, D]``.
        groups: The prompt of each picture.

    Returns:
        Mean of ``1 - <f_i, f_j>`` over the pairs of a prompt, in [0, 2], for each prompt with at
        least two pictures, in the order of their first pictures; ``[g]``.

    Raises:
        ValueError: If the numbers of features and groups differ.

    Source:
        DIV of DreamBooth, Ruiz et al. 2022, arXiv:2208.12242, with these features instead of LPIPS.
    """
    if len(features) != len(groups):
        raise ValueError(f"{len(features)} features but {len(groups)} groups; give one each.")
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    means = [(1 - _pairs(features[rows])).mean() for rows in members.values() if len(rows) > 1]
    return torch.stack(means) if means else torch.zeros(0)


@dataclass(frozen=True, slots=True)
class Copies:
    """Nearest training picture of each picture, with its similarity.

    Attributes:
        similarity: Largest cosine with a training picture, ``[n]``, in [-1, 1].
        nearest: Index of that training picture, ``[n]``, int64.
        yardstick: Largest cosine between different training pictures; None without two.
    """

    similarity: Tensor
    nearest: Tensor
    yardstick: float | None


def copying(pictures: Tensor, training: Tensor) -> Copies:
    """Find the nearest training picture of each picture, and the most similar two of those.

    A picture counts as a copy if its ``1 - cosine`` to a training picture is less than half of the
    least between two different training pictures. (With the whole instead of half, one in ten new
    drawings of the example person would count as a copy, with the tiny CLIP.) Training pictures
    with a cosine of at least :data:`SAME_PICTURE` are not different.

    Args:
        pictures: Unit rows, ``[n, D]``.
        training: Unit rows, ``[m, D]``, m >= 1.

    Returns:
        ``max_j <p_i, t_j>``, its j, and ``max <t_i, t_j>`` over i < j.

    Raises:
        ValueError: If there is no training picture, or the widths differ.

    Source:
        Nearest-training similarity of Somepalli et al. 2022, arXiv:2212.03860, with these features
        instead of SSCD's; the yardstick is this project's.
    """
    _require_alike(pictures, training, "training")
    if not len(pictures):
        return Copies(torch.zeros(0), torch.zeros(0, dtype=torch.int64), _yardstick(training))
    similarity, nearest = (pictures @ training.T).max(dim=1)
    return Copies(similarity, nearest, _yardstick(training))


class ImageSimilarity(PictureMean):
    """Mean cosine of pictures with references; see :func:`image_similarity`.

    Args:
        references: Unit rows, ``[m, D]``, m >= 1.
    """

    higher_is_better = True

    def __init__(self, references: Tensor) -> None:
        super().__init__()
        self._references = references

    def update(self, features: Tensor) -> None:
        """Add the unit features of pictures, ``[n, D]``."""
        self.take(image_similarity(features, self._references))


class Diversity(PictureMean):
    """Mean over prompts of the distance between a prompt's pictures; see :func:`diversity`.

    Its numbers belong to prompts, not to pictures.
    """

    higher_is_better = True

    def update(self, features: Tensor, groups: Sequence[Hashable]) -> None:
        """Add all pictures of some prompts: unit rows ``[n, D]``, and the prompt of each."""
        self.take(diversity(features, groups))


class Copying(PictureMean):
    """Share of pictures that are copies of training pictures; see :func:`copying`.

    Args:
        training: Unit rows, ``[m, D]``, m >= 1.

    Attributes:
        yardstick: Largest cosine between different training pictures; None without two.
        similarity: Largest cosine of each picture with a training picture.
        nearest: Index of that training picture.
    """

    higher_is_better = False

    def __init__(self, training: Tensor) -> None:
        super().__init__()
        self._training = training
        self.yardstick = _yardstick(training)
        self.similarity: list[float] = []
        self.nearest: list[int] = []

    def update(self, features: Tensor) -> None:
        """Add the unit features of pictures, ``[n, D]``; without a yardstick none is a copy."""
        copies = copying(features, self._training)
        self.similarity += copies.similarity.tolist()
        self.nearest += copies.nearest.tolist()
        if self.yardstick is not None:
            self.take(copies.similarity > _threshold(self.yardstick))

    def reset(self) -> None:
        """Forget the pictures so far."""
        super().reset()
        self.similarity, self.nearest = [], []


class PriorDrift(PictureMean):
    """Distance of pictures without the trigger word from the base model's; lower is better.

    ``1 - <f_i, g_i>`` of the pictures that base and adapter draw of one prompt from one noise,
    [0, 2]; 0: the adapter changes pictures with the trigger word alone.

    Source:
        Prior preservation of DreamBooth, Ruiz et al. 2022, arXiv:2208.12242, section 4.1 (PRES),
        against the base's pictures instead of training ones.
    """

    higher_is_better = False

    def update(self, features: Tensor, base: Tensor) -> None:
        """Add unit features of the adapter's and the base's pictures, both ``[n, D]``."""
        if features.shape != base.shape:
            raise ValueError("base: give one picture of the base for each of the adapter.")
        self.take((1 - (features * base).sum(dim=1)).clamp(min=0))  # rounding gives -6e-8


def _require_alike(pictures: Tensor, others: Tensor, name: str) -> None:
    if others.ndim != 2 or not len(others):
        raise ValueError(f"{name}: no picture to compare with; give at least one.")
    if len(pictures) and pictures.shape[1:] != others.shape[1:]:
        raise ValueError(f"{name}: the features have different widths; embed both with one model.")


def _pairs(features: Tensor) -> Tensor:
    first, second = torch.triu_indices(len(features), len(features), offset=1)
    return (features @ features.T)[first, second]


def _yardstick(training: Tensor) -> float | None:
    pairs = _pairs(training)
    different = pairs[pairs < SAME_PICTURE]
    return float(different.max()) if len(different) else None


def _threshold(yardstick: float) -> float:
    return (1 + yardstick) / 2
