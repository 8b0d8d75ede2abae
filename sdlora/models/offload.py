"""Model offload: parts of a model wait in main memory while nobody calls them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


class Offload:
    """Parts that can wait in main memory.

    Whoever calls them says so by :meth:`called`, so that they move as a whole and nothing moves
    inside a step. accelerate's hooks, which move a part when it is called, leave it in two places
    where the device's memory ends in between.

    Args:
        parts: What no training step calls.
        device: Where they compute.
    """

    def __init__(self, parts: Sequence[nn.Module], device: torch.device) -> None:
        self._parts = parts
        self._device = device

    @contextmanager
    def called(self) -> Iterator[None]:
        """On the device inside the block, and away after it.

        Raises:
            torch.OutOfMemoryError: If there is no room for them; they are away then, too.
        """
        try:
            for part in self._parts:
                part.to(self._device)
            yield
        finally:
            self.send_away()

    def send_away(self) -> None:
        """Into main memory; what they took of the device is free for whoever asks."""
        for part in self._parts:
            part.to("cpu")
        if self._parts and torch.cuda.is_available():
            torch.cuda.empty_cache()
