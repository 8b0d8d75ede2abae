"""Frozen weights of a denoiser's blocks that wait in main memory, and come one block at a time.

Ours, since diffusers' ``enable_group_offload`` is made for drawing. Its stream fetches the next
block of the forward pass; in a backward pass that is the one that was just left, so that all of
them pile up on the device while each one waits for its own. And it moves adapters with their
blocks, away from their gradients and the optimizer's states.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sdlora.models.quantising import saved_bytes

BLOCKS_THERE = 3
"""Blocks on the device at once: that which computes, the next one, and one that is being freed."""


def blocks_of(denoiser: nn.Module) -> list[nn.Module]:
    """Blocks that a network repeats, by diffusers' list; each is recomputed as a whole.

    Of a UNet these are its transformer blocks. Empty: it names none.
    """
    names = getattr(denoiser, "_repeated_blocks", None) or ()
    return [module for module in denoiser.modules() if type(module).__name__ in names]


def streamed_bytes(denoiser: nn.Module, kind: str | None) -> int:
    """Bytes that a device need not hold where the blocks of a network are streamed.

    Args:
        denoiser: Not quantised.
        kind: What its weights are rounded to; ``None``: they are not.
    """
    sizes = [
        sum(weight.nbytes for weight in block.parameters() if not weight.requires_grad)
        - (0 if kind is None else saved_bytes(block, kind))
        for block in blocks_of(denoiser)
    ]
    return sum(sizes) - sum(sorted(sizes)[-BLOCKS_THERE:])


class BlockStream:
    """Brings the frozen weights of blocks to the device when they are called, and the next ones.

    A block's forward pass gets copies on the device in place of its parameters, and gives them up
    at its end. Autograd keeps what a backward pass needs: with gradient checkpointing, where
    the block's own forward pass runs again, that of one block. Weights that train never move.

    Which block comes next is what came next the last time after the same two, forwards and
    backwards alike; it is copied by a stream of its own, where the device has them.

    Args:
        denoiser: With its adapter.
        device: Where it computes now; where that is the main memory, nothing is copied.
    """

    def __init__(self, denoiser: nn.Module, device: Callable[[], torch.device]) -> None:
        self._device = device
        self._blocks = [_frozen(block) for block in blocks_of(denoiser)]
        self._homes: dict[int, list[nn.Parameter]] = {}
        self._next: dict[tuple[int, int], int] = {}
        self._last = (-1, -1)
        self._coming: tuple[int, list[nn.Parameter], Any] | None = None
        self._side: Any = None
        if torch.cuda.is_available():
            for module, name in (place for block in self._blocks for place in block):
                module._parameters[name] = _in_pinned_memory(module._parameters[name])
        self._handles = [
            handle
            for number, block in enumerate(blocks_of(denoiser))
            for handle in (
                block.register_forward_pre_hook(partial(self._bring, number)),
                block.register_forward_hook(partial(self._give_up, number), always_call=True),
            )
        ]

    def close(self) -> None:
        """End the streaming; the weights are in main memory."""
        for handle in self._handles:
            handle.remove()
        self.forget()

    def forget(self) -> None:
        """Drop a block that was copied ahead: weights at home are about to change."""
        self._coming = None

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Have these weights out of the network, inside the block, while all others are moved."""
        places = [place for block in self._blocks for place in block]
        homes = [module._parameters[name] for module, name in places]
        for module, name in places:
            module._parameters[name] = None
        try:
            yield
        finally:
            for (module, name), home in zip(places, homes, strict=True):
                module._parameters[name] = home

    def _bring(self, number: int, *_: Any) -> None:
        if number in self._homes:  # it calls itself
            return
        there, self._coming = self._arrived(number), None
        places = self._blocks[number]
        self._homes[number] = [_parameter(module, name) for module, name in places]
        for (module, name), weight in zip(places, there, strict=True):
            module._parameters[name] = weight
        self._next[self._last] = number
        self._last = (self._last[1], number)
        following = self._next.get(self._last)
        if following is not None and following != number:
            self._coming = (following, *self._copied_ahead(following))

    def _give_up(self, number: int, *_: Any) -> None:
        for (module, name), home in zip(
            self._blocks[number], self._homes.pop(number, []), strict=False
        ):
            module._parameters[name] = home

    def _arrived(self, number: int) -> list[nn.Parameter]:
        if self._coming is None or self._coming[0] != number:
            return self._copies(number)
        _, weights, event = self._coming
        if event is not None:
            now = torch.cuda.current_stream(self._device())
            now.wait_event(event)
            for weight in weights:
                weight.data.record_stream(now)
        return weights

    def _copied_ahead(self, number: int) -> tuple[list[nn.Parameter], Any]:
        device = self._device()
        if device.type != "cuda":
            return self._copies(number), None
        if self._side is None:
            self._side = torch.cuda.Stream(device)
        with torch.cuda.stream(self._side):
            return self._copies(number), self._side.record_event()

    def _copies(self, number: int) -> list[nn.Parameter]:
        device = self._device()
        return [_on(device, _parameter(module, name)) for module, name in self._blocks[number]]


def _frozen(block: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where the block's frozen weights are."""
    return [
        (module, name)
        for module in block.modules()
        for name, weight in module._parameters.items()
        if weight is not None and not weight.requires_grad
    ]


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    found = module._parameters[name]
    assert found is not None, "it was there when the stream began"
    return found


def _on(device: torch.device, weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(device, non_blocking=True), requires_grad=False)


def _in_pinned_memory(weight: Tensor | None) -> nn.Parameter:
    assert weight is not None
    return nn.Parameter(weight.detach().cpu().pin_memory(), requires_grad=False)
