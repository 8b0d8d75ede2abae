"""A LoRA linear layer that adds the update in the matrix product that computes it."""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor


class FusedLinear(Linear):
    """peft's ``Linear`` with fewer kernels for ``W x + b + s B (A x)`` in training.

    peft multiplies, scales and adds in three kernels, and casts ``x`` to the adapter's float32
    before autocast casts it back: exact, but it copies every input and its gradient. Here ``addmm``
    does all three, rounding once, without a copy of ``x``.

    Without gradients peft's own forward is used, so that pictures and proofs of files are bit-exact
    with diffusers. It is also used for DoRA and for merged or disabled adapters.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[..., in]`` -> ``[..., out]``, in the base layer's dtype."""
        is_plain = not (args or kwargs or self.lora_variant or self.disable_adapters or self.merged)
        if not (is_plain and torch.is_grad_enabled() and self._has_one_dtype(x)):
            return super().forward(x, *args, **kwargs)
        result: Tensor = self.base_layer(x)
        for name in self.active_adapters:
            if name in self.lora_A:
                down = self.lora_A[name](self.lora_dropout[name](x))
                up: Any = self.lora_B[name].weight
                rows, factor = result.flatten(0, -2), self.scaling[name]
                rows = torch.addmm(rows, down.flatten(0, -2), up.t(), alpha=factor)
                result = rows.view_as(result)
        return result

    def _has_one_dtype(self, x: Tensor) -> bool:
        """Whether base and adapter compute in one dtype: their own, or autocast's."""
        is_same = all(self.lora_A[name].weight.dtype == x.dtype for name in self.lora_A)
        return is_same or torch.is_autocast_enabled(x.device.type)
