"""OFT's own: which layers it fits, its strength, and its merged weight."""

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from sdlora.adapters.spec import LoraError


def turned_widths(module: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """Inputs of the layers that OFT turns, by name.

    Raises:
        LoraError: Naming a layer that is not Linear: of a convolution peft turns what it cuts out
            of the input and adds the overlaps up, which is another function than that of a turned
            weight.
    """
    modules: dict[str, Any] = dict(module.named_modules())
    for name in names:
        if not isinstance(modules[name], nn.Linear):
            raise LoraError(
                f"targets={name}: is a {type(modules[name]).__name__}, and OFT turns the inputs of "
                "Linear layers only; choose lora=attention or lora=attention_mlp, or another "
                "lora.type"
            )
    return {name: modules[name].in_features for name in names}


def refuse_unfit_blocks(widths: Mapping[str, int], block_size: int) -> None:
    """Refuse layers whose inputs blocks of this size do not divide; peft would take another size.

    Args:
        widths: Inputs by name, of all layers that the size holds for.
        block_size: Side of a block.

    Raises:
        LoraError: Naming a layer, and a size that fits all; or a type, if none does.
    """
    unfit = next((name for name, width in widths.items() if width % block_size), None)
    if unfit is None:
        return
    common = gcd(*widths.values())
    fitting = [size for size in range(2, common + 1) if common % size == 0]
    if not fitting:
        odd = min(widths, key=lambda name: gcd(widths[unfit], widths[name]))
        raise LoraError(
            f"oft_block_size={block_size}: {unfit} has {widths[unfit]} inputs, {odd} "
            f"{widths[odd]}, and no size divides those of all layers; set lora.type=lora, or leave "
            "layers out of the targets"
        )
    smaller = [size for size in fitting if size < block_size]
    raise LoraError(
        f"oft_block_size={block_size}: {unfit} has {widths[unfit]} inputs, which blocks of "
        f"{block_size} do not divide; set lora.oft_block_size={max(smaller, default=fitting[0])}"
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
