"""A frozen Linear layer with weights in 8 bits.

Ours, since what libraries have does not fit these networks. bitsandbytes' LLM.int8 rounds
activations as well, and casts them to fp16 before, in which transformers of flow matching overflow.
torchao's weights say that they are bf16 and stay in 8 bits where ``float()`` asks for 32, so that
neither proofs of exports nor adapters that change weights would know.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 127
"""Of the whole numbers that weights become, which are as many below 0."""


class Int8Linear(nn.Linear):
    """``x W^T + b`` with ``W = scale * q``: whole numbers, and a scale for each output.

    It computes in the input's dtype, or autocast's. The scale has the former dtype of the weights,
    and they are rounded to its multiples, so that no row is scaled by a rounding error.

    Attributes:
        weight: ``[out, in]``, int8, frozen.
        scale: ``[out, 1]``.
    """

    scale: Tensor

    @classmethod
    def of(cls, layer: nn.Linear) -> Self:
        """The layer with rounded weights; its bias is shared."""
        with torch.device("meta"):
            made = cls(layer.in_features, layer.out_features, bias=False)
        weight = layer.weight.detach()
        largest = weight.float().abs().amax(1, keepdim=True)
        tiny = torch.finfo(weight.dtype).tiny  # of a row of zeros
        scale = (largest / LARGEST).to(weight.dtype).clamp(min=tiny)
        whole = (weight.float() / scale.float()).round().clamp(-LARGEST, LARGEST)
        made.weight = nn.Parameter(whole.to(torch.int8), requires_grad=False)
        made.register_buffer("scale", scale)
        made.bias = layer.bias
        return made

    @property
    def compute_dtype(self) -> torch.dtype:
        """The former dtype of the weights, which diffusers asks rounded layers for by this name."""
        return self.scale.dtype

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` -> ``[..., out]``."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        found: Tensor = _Product.apply(x, self.weight, self.scale, bias)
        return found


class _Product(torch.autograd.Function):
    """The product, which keeps the weights in 8 bits for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return F.linear(x, _unpacked(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        weight, scale = ctx.saved_tensors
        return grad @ _unpacked(weight, scale, grad.dtype), None, None, None


def _unpacked(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).mul_(scale.to(dtype))
