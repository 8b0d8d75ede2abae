"""A token embedding with trained rows for a new word."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEW_ROWS = "new_rows"
"""Last part of the trained parameter's name in its text encoder."""


class LearnedEmbedding(nn.Module):
    """A token embedding with new rows after the vocabulary's; only the new rows train.

    Args:
        vocabulary: The text encoder's own, ``[V, D]``.
        new_rows: Initial embeddings of the new word, ``[n, D]``, for ids ``V`` to ``V + n - 1``.

    Attributes:
        strength: 1 as trained, 0 as initialised; linear in between and beyond.
    """

    def __init__(self, vocabulary: nn.Embedding, new_rows: Tensor) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.new_rows = nn.Parameter(new_rows.detach().clone().float())
        self.first_rows = nn.Buffer(new_rows.detach().clone().float(), persistent=False)
        self.strength = 1.0

    @property
    def weight(self) -> Tensor:
        """The vocabulary's embeddings; text encoders read its dtype and device."""
        return self.vocabulary.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings ``[..., D]`` of token ids ``[...]``, in the vocabulary's dtype."""
        num_known = self.vocabulary.num_embeddings
        known = self.vocabulary(ids.clamp(max=num_known - 1))
        rows: Tensor = self.new_rows
        if self.strength != 1.0:
            rows = torch.lerp(self.first_rows, rows, self.strength)
        new = F.embedding((ids - num_known).clamp(min=0), rows).to(known.dtype)
        return torch.where((ids < num_known)[..., None], known, new)


def learned(*modules: nn.Module) -> Iterator[LearnedEmbedding]:
    """The new word's embeddings in ``modules``, if any."""
    for module in modules:
        for inside in module.modules():
            if isinstance(inside, LearnedEmbedding):
                yield inside
