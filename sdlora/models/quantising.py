"""Quantisation of the Linear layers of a frozen part: 4 bits by bitsandbytes, or 8."""

from functools import partial
from typing import Any

import torch
from torch import nn

from sdlora.models.int8_linear import Int8Linear

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits of a weight, including its share of the scales."""

KINDS = ("int8", "nf4")
"""What weights are rounded to, the finest first."""


def quantise(module: nn.Module, kind: str) -> None:
    """Quantise the weights of every Linear layer, in place.

    A layer computes in the former dtype of its weights, which are unpacked each time.

    Args:
        module: A frozen part, without adapters; mostly Linear layers, or little is saved.
        kind: ``nf4``: one of 16 quantiles of the normal distribution for each weight, and a scale
            for each 64, itself in 8 bits. ``int8``: whole numbers, and a scale for each output.

    Source:
        Dettmers et al. 2023, arXiv:2305.14314, for ``nf4``.
    """
    weights = [each.weight for each in module.modules() if type(each) is nn.Linear]
    if weights:
        module.register_forward_pre_hook(partial(_in_dtype, weights[0].dtype), with_kwargs=True)
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                packed = Int8Linear.of(layer) if kind == "int8" else _packed(layer, kind)
                setattr(parent, name, packed)


def _in_dtype(
    dtype: torch.dtype, module: nn.Module, args: Any, kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Inputs in the former dtype of the weights.

    Pipelines of transformers cast them to ``module.dtype``, diffusers' first floating weight, which
    in a quantised part can be an adapter's float32; all of the network would follow it.
    """
    states = kwargs.get("hidden_states")
    return args, kwargs if states is None else {**kwargs, "hidden_states": states.to(dtype)}


def saved_bytes(module: nn.Module, kind: str) -> int:
    """Bytes that :func:`quantise` would save of a part's weights, without its adapter."""
    weights = [m.weight for m in module.modules() if type(m) is nn.Linear]
    frozen = [weight for weight in weights if not weight.requires_grad]
    if kind == "int8":
        return sum(w.nbytes - w.numel() - len(w) * w.itemsize for w in frozen)
    return sum(weight.nbytes - round(weight.numel() * NF4_BITS / 8) for weight in frozen)


def _packed(layer: nn.Linear, kind: str) -> nn.Module:
    import bitsandbytes.nn as bits

    weight = layer.weight
    with torch.device("meta"):  # until its weights are put in
        packed = bits.Linear4bit(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            compute_dtype=weight.dtype,
            quant_type=kind,
        )
    packed.bias = layer.bias
    packed.weight = bits.Params4bit(weight.detach(), quant_type=kind, module=packed)
    packed.support_avx512bf16_for_cpu = False  # it repacks in eval mode, and then has no gradient
    return packed.to(weight.device)
