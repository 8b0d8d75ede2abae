"""The strength of an adapter on a model: set, none for a while, or merged into the weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from sdlora.adapters.learned_embedding import learned
from sdlora.adapters.lora import START
from sdlora.adapters.oft import merge_turned, strength_of
from sdlora.adapters.spec import LoraError
from sdlora.adapters.tuners import ADAPTER, adapter_layers


def set_scale(module: nn.Module, scale: float) -> None:
    """Set the adapter's strength: 1 as trained, 0 none, negative values invert it.

    Raises:
        LoraError: If the adapter is merged, or ``scale`` is not finite.
    """
    if not math.isfinite(scale):
        raise LoraError(f"scale={scale}: must be a finite number")
    _require_unmerged(module, "set its scale")
    for layer in adapter_layers(module).values():
        if hasattr(layer, "oft_R"):
            strength_of(layer).value = scale
            continue
        layer.set_scale(ADAPTER, scale)
        layer.set_scale(START, scale)  # does nothing where there is none


@contextmanager
def disabled(*modules: nn.Module) -> Iterator[None]:
    """Disable the adapters of the modules, inside the block; may be nested.

    A new word has its initial embeddings.

    Raises:
        LoraError: If an adapter is merged, so that the base's weights are gone.
    """
    for module in modules:
        _require_unmerged(module, "switch it off")
    layers = [layer for module in modules for layer in adapter_layers(module).values()]
    before = [layer.disable_adapters for layer in layers]
    parameters = [p for layer in layers for p in layer.parameters()]
    trained = [(p, p.requires_grad) for p in parameters]
    words = [(word, word.strength) for word in learned(*modules)]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        for word, _ in words:
            word.strength = 0.0
        yield
    finally:
        for layer, was_disabled in zip(layers, before, strict=True):
            layer.enable_adapters(not was_disabled)
        for word, strength in words:
            word.strength = strength
        for parameter, requires_grad in trained:  # peft's switch sets it as it likes
            parameter.requires_grad_(requires_grad)


def merge(module: nn.Module) -> None:
    """Add the adapter into the base weights, in their dtype, for good.

    Raises:
        ValueError: If a merged weight would be NaN or infinite.
    """
    for layer in adapter_layers(module).values():
        if hasattr(layer, "oft_R"):
            merge_turned(layer, ADAPTER)
        else:
            layer.merge(safe_merge=True)


@contextmanager
def merged(module: nn.Module) -> Iterator[nn.Module]:
    """Merge the adapter of ``module``, inside the block; then restore the base weights.

    They are restored from a copy, since subtracting the update would leave rounding errors.
    """
    _require_unmerged(module, "merge it again")
    layers = list(adapter_layers(module).values())
    weights = [layer.get_base_layer().weight for layer in layers]
    kept = [weight.detach().clone() for weight in weights]
    try:
        merge(module)
        yield module
    finally:
        for layer, weight, copy in zip(layers, weights, kept, strict=True):
            weight.data.copy_(copy)
            layer.merged_adapters.clear()


def _require_unmerged(module: nn.Module, what: str) -> None:
    if any(layer.merged for layer in adapter_layers(module).values()):
        raise LoraError(f"the adapter is merged into the weights; {what} before merging")
