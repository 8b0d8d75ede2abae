"""Aesthetic score: a prediction of how people rate a picture, by a linear head on CLIP features."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sdlora.evaluation.image_features import ImageFeatures
from sdlora.evaluation.picture_mean import PictureMean
from sdlora.evaluation.scoring import Measured, Pictures
from sdlora.runtime.progress import Progress

NAME = "aesthetic"


class Aesthetic(PictureMean):
    """Mean of ``w . f + b`` over pictures; higher is better looking, LAION's head gives 1 to 10.

    Args:
        weight: ``w``, ``[1, D]``.
        bias: ``b``, ``[1]``.

    Source:
        LAION aesthetics predictor v1, ``nn.Linear(D, 1)`` on unit CLIP features (ViT-L/14: 768).
    """

    higher_is_better = True

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self._weight = weight.float()
        self._bias = bias.float()

    def update(self, features: Tensor) -> None:
        """Add the unit features of pictures, ``[n, D]``."""
        self.take((features @ self._weight.T + self._bias)[:, 0])


class AestheticScorer:
    """The aesthetic score of pictures; it uses neither prompts nor references.

    Args:
        head: A local safetensors file with ``weight`` ``[1, D]`` and ``bias`` ``[1]``.
        model: The CLIP that the head was trained on: a local folder in Hugging Face layout, or a
            hub id.
        device: Where the CLIP runs.
        batch_size: Pictures in a batch, >= 1.

    Raises:
        ValueError: If the head or the CLIP cannot be loaded, or the head is another CLIP's.
    """

    names: Sequence[str] = (NAME,)

    def __init__(
        self,
        head: Path | str,
        model: Path | str = "openai/clip-vit-large-patch14",
        device: torch.device | str = "cpu",
        batch_size: int = 32,
    ) -> None:
        self._head = load_head(head)
        self._features = ImageFeatures(model, device, batch_size)
        expected = self._head[0].shape[1]
        width = self._features.embed([Image.new("RGB", (64, 64))]).shape[1]
        if width != expected:
            raise ValueError(
                f"aesthetic head {head}: reads {expected} features, but {model} gives {width}; "
                "name the CLIP that the head was trained on (768: openai/clip-vit-large-patch14)."
            )

    def score(self, pictures: Pictures, progress: Progress) -> Measured:
        """Score pictures."""
        metric = Aesthetic(*self._head)
        metric.update(self._features.embed(pictures.images))
        measured = Measured()
        measured.add(NAME, metric)
        return measured


def load_head(path: Path | str) -> tuple[Tensor, Tensor]:
    """Read a linear head.

    Args:
        path: A local safetensors file.

    Returns:
        ``weight``, ``[1, D]``, and ``bias``, ``[1]``, finite.

    Raises:
        ValueError: If there is no such file, or it holds something else.
    """
    remedy = (
        "give a safetensors file with weight [1, D] and bias [1], such as LAION's "
        "sa_0_4_vit_l_14_linear.pth converted with "
        "safetensors.torch.save_file(torch.load(PTH, weights_only=True), FILE)"
    )
    if not Path(path).is_file():
        raise ValueError(f"aesthetic head {path}: no such file; {remedy}.")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"aesthetic head {path}: no safetensors file ({error}); {remedy}."
        ) from error
    weight, bias = (tensors.get(name, torch.zeros(0)) for name in ("weight", "bias"))
    if weight.ndim != 2 or len(weight) != 1 or bias.shape != (1,):
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"aesthetic head {path}: holds {found or 'nothing'}; {remedy}.")
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise ValueError(f"aesthetic head {path}: holds NaN or infinite numbers; {remedy}.")
    return weight, bias
