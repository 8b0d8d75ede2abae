"""The small convolutional network of the face and attribute nets, and its files."""

import json
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sdlora.runtime.files import atomic_path, write_json

SIZE_PX = 64
"""Side of the drawn world's pictures."""


def square_pixels(image: Image.Image) -> Tensor:
    """A picture as the nets of the drawn world read it: ``[3, 64, 64]`` in [-1, 1], cropped."""
    square = ImageOps.fit(image.convert("RGB"), (SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1.0


class Convolutions(nn.Module):
    """Pictures to feature vectors with coarse positions.

    Args:
        width: Channels at 32x32; twice and four times as many in later layers.
        num_features: Length of a vector.
    """

    def __init__(self, width: int, num_features: int) -> None:
        super().__init__()
        w1, w2, w3 = width, 2 * width, 4 * width
        plan = [(3, w1, 2), (w1, w1, 1), (w1, w2, 2), (w2, w2, 1), (w2, w3, 2), (w3, w3, 1),
                (w3, w2, 2)]  # fmt: skip
        layers: list[nn.Module] = []
        for inputs, outputs, stride in plan:
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.out = nn.Sequential(nn.Linear(16 * w2, num_features), nn.ReLU())

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels ``[B, 3, H, W]`` in [-1, 1], of any size, to ``[B, num_features]``."""
        if pixels.shape[-2:] != (SIZE_PX, SIZE_PX):
            size = (SIZE_PX, SIZE_PX)
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        features: Tensor = self.out(self.layers(pixels))
        return features


class Shipped(nn.Module):
    """A net that is stored as ``config.json`` and ``model.safetensors`` in half precision.

    A subclass is built from its :attr:`settings`.
    """

    settings: dict[str, int]

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the settings and the weights to ``folder``."""
        folder = Path(folder)
        write_json(folder / "config.json", self.settings)
        weights = {
            name: value.half().contiguous() if value.is_floating_point() else value
            for name, value in self.state_dict().items()
        }
        with atomic_path(folder / "model.safetensors") as temporary:
            save_file(weights, temporary)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Self:
        """Read a net that :meth:`save_pretrained` wrote; float32, in eval mode.

        Raises:
            FileNotFoundError: If ``folder`` lacks one of the two files.
            RuntimeError: If the weights do not fit the settings.
        """
        folder = Path(folder)
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        net = cls(**settings)
        net.load_state_dict(load_file(folder / "model.safetensors"))
        return net.float().eval()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device
