"""Model offload: parts of a model wait in main memory until somebody calls them."""

from collections.abc import Sequence

import torch
from accelerate import cpu_offload_with_hook
from torch import nn

MAIN_MEMORY = torch.device("cpu")


class Offload:
    """Parts that lie in main memory, from now on and between their calls, by accelerate's hooks.

    A call brings a part to the device, and sends the part before it in the list away. It stays
    there until :meth:`send_away`.

    Args:
        parts: In the order in which drawing a picture calls them.
        device: Where they compute.
    """

    def __init__(self, parts: Sequence[nn.Module], device: torch.device) -> None:
        self._parts = parts
        self._hooks = []
        before = None
        for part in parts:
            _, before = cpu_offload_with_hook(part, device, before)
            self._hooks.append(before)

    def send_away(self) -> None:
        """Whatever has come to the device leaves it; costs next to nothing if nothing has."""
        for part, hook in zip(self._parts, self._hooks, strict=True):
            if next(part.parameters()).device != MAIN_MEMORY:
                hook.offload()

    def end(self) -> None:
        """From now on the parts stay wherever they are."""
        for hook in self._hooks:
            hook.remove()
