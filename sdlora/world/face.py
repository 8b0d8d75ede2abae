"""The face embedder of the drawn world: identity vectors and face probability."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from sdlora.world.convolutions import Convolutions, Shipped


class FaceEmbeddings(NamedTuple):
    """The embedder's output for a batch.

    Attributes:
        vectors: One unit vector for each picture, ``[B, 128]``; near each other for one person.
        face_probability: Probability of a face, ``[B]``, 0 to 1.
    """

    vectors: Tensor
    face_probability: Tensor


class FaceEmbedder(Shipped):
    """Identity vectors that do not depend on hair, clothes, background or pose.

    Args:
        width: Channels of the first convolution.
        num_features: Length of the vector before the two heads.
        num_dimensions: Length of an identity vector.
    """

    def __init__(self, width: int = 32, num_features: int = 256, num_dimensions: int = 128) -> None:
        super().__init__()
        self.settings = {
            "width": width,
            "num_features": num_features,
            "num_dimensions": num_dimensions,
        }
        self.trunk = Convolutions(width, num_features)
        self.identity = nn.Linear(num_features, num_dimensions)
        self.presence = nn.Linear(num_features, 1)

    def logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors ``[B, 128]`` and the face logit ``[B]``, for training."""
        features = self.trunk(pixels)
        vectors = F.normalize(self.identity(features).float(), dim=1)
        return vectors, self.presence(features).float()[:, 0]

    def forward(self, pixels: Tensor) -> FaceEmbeddings:
        """Embed pictures.

        Args:
            pixels: ``[B, 3, H, W]`` in [-1, 1]; resized to 64x64 if of another size.
        """
        vectors, presence = self.logits(pixels)
        return FaceEmbeddings(vectors, presence.sigmoid())
