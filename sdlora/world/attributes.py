"""The attribute classifier of the drawn world, which reads the scene of a picture."""

import torch
from torch import Tensor, nn

from sdlora.world.convolutions import Convolutions, Shipped
from sdlora.world.portraits import ATTRIBUTE_VALUES

FOLLOWED = ("background", "shirt", "hair", "hat", "glasses", "kind")
"""Attributes that count where a picture is compared with its prompt."""


class AttributeClassifier(Shipped):
    """Reads kind, hair, glasses, hat, beard, smile, shirt and background, each on its own.

    Args:
        width: Channels of the first convolution.
        num_features: Length of the vector before the heads.
    """

    def __init__(self, width: int = 24, num_features: int = 192) -> None:
        super().__init__()
        self.settings = {"width": width, "num_features": num_features}
        self.trunk = Convolutions(width, num_features)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(num_features, len(v)) for name, v in ATTRIBUTE_VALUES.items()}
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Map pixels ``[B, 3, H, W]`` in [-1, 1] to each attribute's logits ``[B, values]``."""
        features = self.trunk(pixels)
        return {name: head(features).float() for name, head in self.heads.items()}

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> list[dict[str, str]]:
        """Name what is seen in pictures ``[B, 3, H, W]`` in [-1, 1], as ``Scene.attributes``."""
        chosen = {name: logits.argmax(1).tolist() for name, logits in self(pixels).items()}
        return [
            {name: ATTRIBUTE_VALUES[name][indices[row]] for name, indices in chosen.items()}
            for row in range(len(pixels))
        ]
