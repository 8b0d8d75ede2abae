"""Networks that compute in float32 layer by layer, whatever dtype their weights are kept in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

HALVES = (torch.float16, torch.bfloat16)


@contextmanager
def exact(module: nn.Module) -> Iterator[None]:
    """``module`` computes in float32 and without dropout, inside the block.

    Weights in 16 bits lose nothing in float32; each layer has a copy of its own while it computes,
    so that no more memory than for one layer is needed.
    """
    modes = [(each, each.training) for each in module.modules()]
    with ExitStack() as stack:
        if any(each._compiled_call_impl is not None for each in module.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # no graph of the copies
        for each in module.modules():
            kept = _halves(each)
            if kept:
                stack.callback(_put_back, kept)
                before = each.register_forward_pre_hook(partial(_widen, kept), with_kwargs=True)
                after = each.register_forward_hook(partial(_narrow, kept), always_call=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
        try:
            module.eval()
            yield
        finally:
            for each, training in modes:
                each.training = training


@contextmanager
def without_weights(module: nn.Module) -> Iterator[None]:
    """``module`` has float32 zeros that take no memory for its 16-bit weights, inside the block.

    Loaders give an adapter the dtype of its layer, and would round it to 16 bits.
    """
    kept = [item for each in module.modules() for item in _halves(each)]
    try:
        for tensor, value in kept:
            nothing = torch.zeros((), dtype=torch.float32, device=value.device)
            tensor.data = nothing.expand(value.shape)
        yield
    finally:
        _put_back(kept)


def _halves(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The module's own tensors in 16 bits, and their values."""
    own = chain(module.parameters(recurse=False), module.buffers(recurse=False))
    return [(tensor, tensor.data) for tensor in own if tensor.dtype in HALVES]


def _widen(
    kept: list[tuple[Tensor, Tensor]], module: nn.Module, args: Any, kwargs: dict[str, Any]
) -> Any:
    for tensor, value in kept:
        tensor.data = value.float()
    return (
        tuple(_wide(each) for each in args),
        {name: _wide(each) for name, each in kwargs.items()},
    )


def _wide(value: Any) -> Any:
    """An input in float32: some networks cast to the dtype of a layer before they call it."""
    return value.float() if isinstance(value, Tensor) and value.dtype in HALVES else value


def _narrow(kept: list[tuple[Tensor, Tensor]], *_: Any) -> None:
    _put_back(kept)


def _put_back(kept: list[tuple[Tensor, Tensor]]) -> None:
    for tensor, value in kept:
        tensor.data = value
