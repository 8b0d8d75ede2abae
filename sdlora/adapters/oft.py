"""OFT's own: which layers it fits, its strength, and its merged weight."""

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from sdlora.adapters.spec import LoraError


def refuse_unfit_layers(module: nn.Module, names: Sequence[str], block_size: int) -> None:
    """Refuse layers whose inputs OFT cannot turn in blocks of this size.

    peft would take another size, by itself; and of a convolution it turns what it cuts out of the
    input and adds the overlaps up, which is another function than that of a turned weight.

    Raises:
        LoraError: Naming a layer, and the key and value that fit.
    """
    modules = dict(module.named_modules())
    for name in names:
        if not isinstance(modules[name], nn.Linear):
            raise LoraError(
                f"targets={name}: is a {type(modules[name]).__name__}, and OFT turns the inputs of "
                "Linear layers only; choose lora=attention or lora=attention_mlp, or another "
                "lora.type"
            )
    widths: dict[str, Any] = {name: modules[name].in_features for name in names}
    unfit = next((name for name, width in widths.items() if width % block_size), None)
    if unfit is not None:
        common = gcd(*widths.values())
        fits = max(size for size in range(1, block_size) if common % size == 0)
        raise LoraError(
            f"oft_block_size={block_size}: {unfit} has {widths[unfit]} inputs, which blocks of "
            f"{block_size} do not divide; set lora.oft_block_size={fits}"
        )


class Strength:
    """A forward hook on an OFT layer: its output at another strength than as trained.

    ``y = W x + strength (W' x - W x)``, linear in the strength like the files of every kind here.
    peft's own OFT has one strength only.

    Attributes:
        value: The strength; 1 as trained.
    """

    def __init__(self) -> None:
        self.value = 1.0

    def __call__(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The output, ``[..., out]``."""
        if self.value == 1.0 or layer.disable_adapters or layer.merged:
            return output
        plain: Tensor = layer.base_layer(*inputs)
        return plain + self.value * (output - plain)


def strength_of(layer: Any) -> Strength:
    """The hook of an OFT layer that :func:`sdlora.adapters.lora.add_lora` made."""
    return next(hook for hook in layer._forward_hooks.values() if isinstance(hook, Strength))


def merge_turned(layer: Any, adapter: str) -> None:
    """Put an OFT layer's turn into its weight, at its strength, in the weight's dtype.

    Raises:
        ValueError: If a merged weight would be NaN or infinite.
    """
    weight = layer.get_base_layer().weight
    before = weight.detach().float()
    turned = before @ layer.get_delta_weight(adapter).detach().float().T
    merged = before + strength_of(layer).value * (turned - before)
    if not torch.isfinite(merged).all():
        raise ValueError(f"NaNs detected in the merged weights of the adapter {adapter}")
    weight.data = merged.to(weight.dtype)
    layer.merged_adapters.append(adapter)
