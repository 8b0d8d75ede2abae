"""Layers of LoHa and LoKr that draw no random numbers: peft's draw one at each call in training."""

from typing import Any

from peft.tuners.loha.layer import Conv2d as LoHaConv2d
from peft.tuners.loha.layer import Linear as LoHaLinear
from peft.tuners.lokr.layer import Conv2d as LoKrConv2d
from peft.tuners.lokr.layer import Linear as LoKrLinear
from torch import Tensor


class _WithoutDraws:
    """peft's layer without ``module_dropout``, which is always 0 here.

    peft compares it with a random number at each call all the same: a wait for the device, and a
    branch on data, which neither the estimate of a step nor a compiler can follow.
    """

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``W x + b + dW x``, in the dtype of ``x``."""
        if self.disable_adapters or self.merged:
            plain: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
            return plain
        result: Tensor = self.base_layer(x, *args, **kwargs)
        for name in self.active_adapters:
            if name in self._available_adapters:
                result = result + self._get_delta_activations(name, x, *args, **kwargs)
        return result.to(x.dtype)


class LinearLoHa(_WithoutDraws, LoHaLinear):
    """LoHa of a linear layer."""


class Conv2dLoHa(_WithoutDraws, LoHaConv2d):
    """LoHa of a convolution."""


class LinearLoKr(_WithoutDraws, LoKrLinear):
    """LoKr of a linear layer."""


class Conv2dLoKr(_WithoutDraws, LoKrConv2d):
    """LoKr of a convolution."""


_OWN: dict[type, type] = {
    LoHaLinear: LinearLoHa,
    LoHaConv2d: Conv2dLoHa,
    LoKrLinear: LinearLoKr,
    LoKrConv2d: Conv2dLoKr,
}


def without_draws(layer: Any) -> None:
    """Make peft's layer one of these, in place; peft takes classes of others for LoRA only."""
    layer.__class__ = _OWN[type(layer)]
