"""An adapter on a part of a model by peft, in place: added, its weights taken and loaded."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from sdlora.adapters.fused_linear import FusedLinear
from sdlora.adapters.rank_dropout import RankDropout
from sdlora.adapters.spec import LoraError, LoraSpec, listing
from sdlora.adapters.start import drawn_start, largest_rank, start_from_base
from sdlora.adapters.tuners import (
    ADAPTER,
    PARAMETERS,
    adapter_layers,
    initialise,
    peft_config,
    raw_key,
)
from sdlora.config.lora import FROM_BASE
from sdlora.runtime.randomness import generator

START = "start"
"""The frozen adapter that subtracts the initial values of PiSSA and OLoRA in ``default``."""


def add_lora(module: nn.Module, spec: LoraSpec, seed: int) -> nn.Module:
    """Put an adapter named ``default`` on ``module``, in place; its other weights are frozen.

    A new adapter does not change the output. PiSSA and OLoRA start from the base's weights: a
    second, frozen adapter subtracts the initial update, and the base is unchanged. So such an
    adapter can be disabled, merged or written as one of the original base.

    Adapter weights are float32, whatever the base's dtype. What of a layer is drawn comes from
    its own generator, keyed by ``seed`` and the layer's name, so it depends neither on the device
    nor on which other layers have an adapter; the global random state is not changed.

    Args:
        module: A UNet, text encoder or any other module with Linear and Conv2d layers.
        spec: Type, rank, alpha, targets.
        seed: Seed of the initial weights.

    Returns:
        ``module``.

    Raises:
        LoraError: If it has an adapter already, if a target matches nothing or a layer that cannot
            be adapted, if a pattern matches no adapted layer, or a layer is too small for an init
            from its weights, or not divided by OFT's blocks.
    """
    if adapter_layers(module):
        raise LoraError(f"{type(module).__name__} has an adapter already; add one to a fresh model")
    config: Any = peft_config(module, spec)
    if spec.type == "lora":
        config._register_custom_module({nn.Linear: FusedLinear})  # peft's documented way to do so
    with torch.random.fork_rng(devices=[]):
        door: Any = getattr(module, "add_adapter", None)  # diffusers' and transformers' to peft
        if door is not None:
            door(config, adapter_name=ADAPTER)
        else:
            inject_adapter_in_model(config, module, adapter_name=ADAPTER)
        for name, layer in adapter_layers(module).items():
            if spec.type != "lora":
                initialise(layer, name, spec, seed)
                continue
            _initialise(layer, name, spec, seed)
            if spec.rank_dropout:
                layer.lora_A[ADAPTER].register_forward_hook(RankDropout(spec.rank_dropout))
    for parameter in lora_parameters(module).values():
        parameter.data = parameter.data.float()
    return module


def lora_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Adapter parameters by raw peft key, such as ``mid_block.to_q.lora_A.weight``, if any."""
    return {
        raw_key(name): parameter
        for name, parameter in module.named_parameters()
        if f".{ADAPTER}" in name and any(each in f".{name}" for each in PARAMETERS)
    }


def lora_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the adapter's weights by raw peft key, on the CPU, in the order of files.

    They are the update of the original base: for PiSSA or OLoRA with rank r, matrices of rank 2r,
    ``[A; A_start]`` and ``[B, -B_start]``. They are contiguous, as safetensors requires, even if
    the model is in ``channels_last``.
    """
    state = {name: weight.detach() for name, weight in lora_parameters(module).items()}
    for name, layer in adapter_layers(module).items():
        if START in layer.r:
            a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
            state[a] = torch.cat([state[a], layer.lora_A[START].weight])
            state[b] = torch.cat([state[b], -layer.lora_B[START].weight], dim=1)
    order = torch.contiguous_format
    return {key: weight.cpu().clone(memory_format=order) for key, weight in state.items()}


def load_lora_state_dict(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights into the adapter of ``module``; every key and shape must match.

    Args:
        module: A part with an adapter.
        state: Weights by raw peft key; any float dtype, any device.

    Raises:
        LoraError: Listing keys that are missing or unexpected and shapes that differ; nothing is
            loaded then.
    """
    parameters = lora_parameters(module)
    problems = [f"missing: {name}" for name in parameters if name not in state]
    problems += [f"unexpected: {name}" for name in state if name not in parameters]
    problems += [
        f"{name}: shape {list(state[name].shape)} in the file, {list(p.shape)} in the model"
        for name, p in parameters.items()
        if name in state and state[name].shape != p.shape
    ]
    if problems:
        raise LoraError(
            f"the LoRA does not fit {type(module).__name__}: {len(problems)} keys differ"
            f"{listing(problems)}\nIt was made for another base model, rank or set of targets."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def load_written(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights as :func:`lora_state_dict` gave them, its inverse.

    Of PiSSA and OLoRA these are the leading ranks; the others are the initial values.

    Args:
        module: The part that they were written from.
        state: Weights by raw peft key.

    Raises:
        LoraError: If keys or shapes are not those of the adapter.
    """
    parameters = lora_parameters(module)
    started = {
        f"{name}.{matrix}.weight"
        for name, layer in adapter_layers(module).items()
        if START in layer.r
        for matrix in ("lora_A", "lora_B")
    }
    own = {
        key: value[tuple(map(slice, parameters[key].shape))] if key in started else value
        for key, value in state.items()
    }
    load_lora_state_dict(module, own)


def adapted_layers(module: nn.Module) -> dict[str, tuple[int, float]]:
    """Rank and effective alpha (scale times rank, as trained) of each adapted layer, by name.

    They match ``lora_state_dict``: twice the trained ones for PiSSA and OLoRA. OFT has neither:
    both are the side of its blocks, a scale of 1.
    """
    found = {}
    for name, layer in adapter_layers(module).items():
        if not isinstance(layer, LoraLayer):
            found[name] = _size_and_alpha(layer)
            continue
        r, alpha = layer.r[ADAPTER], float(layer.lora_alpha[ADAPTER])
        factor = 2 if START in layer.r else 1
        effective = alpha * math.sqrt(r) if layer.use_rslora.get(ADAPTER) else alpha
        found[name] = (factor * r, factor * effective)
    return found


def _size_and_alpha(layer: Any) -> tuple[int, float]:
    if hasattr(layer, "oft_R"):
        return layer.oft_block_size[ADAPTER], float(layer.oft_block_size[ADAPTER])
    return layer.r[ADAPTER], float(layer.alpha[ADAPTER])


def lora_config(module: nn.Module) -> PeftConfig:
    """A copy of the peft config that matches ``lora_state_dict``.

    Raises:
        LoraError: If there is no adapter.
    """
    configs: dict[str, Any] = getattr(module, "peft_config", {})
    if ADAPTER not in configs:
        raise LoraError(f"{type(module).__name__} has no adapter; add one with add_lora")
    config: Any = copy.copy(configs[ADAPTER])
    if any(START in layer.r for layer in adapter_layers(module).values()):
        factor = math.sqrt(2) if config.use_rslora else 2  # alpha of twice the rank, same scale
        config.r, config.lora_alpha = 2 * config.r, factor * config.lora_alpha
        config.rank_pattern = {name: 2 * r for name, r in config.rank_pattern.items()}
        config.alpha_pattern = {n: factor * alpha for n, alpha in config.alpha_pattern.items()}
    return config


def _initialise(layer: Any, name: str, spec: LoraSpec, seed: int) -> None:
    if spec.init in FROM_BASE:
        _start_from_base(layer, name, spec.init)
        return
    weight = layer.lora_A[ADAPTER].weight
    fresh = drawn_start(weight.shape, spec.init, generator(seed, f"lora/{name}"))
    if not weight.is_meta:
        weight.data = fresh.to(weight.device)


def _start_from_base(layer: Any, name: str, init: str) -> None:
    weight, r = layer.get_base_layer().weight, layer.r[ADAPTER]
    if r > largest_rank(weight):
        raise LoraError(
            f"r={r}: {name} has no more than {largest_rank(weight)} ranks for init={init} to take; "
            "lower it there by rank_pattern, or leave the layer out of targets"
        )
    plain = LoraConfig(init_lora_weights=False, use_rslora=layer.use_rslora[ADAPTER])
    layer.update_layer(START, r, lora_alpha=-layer.lora_alpha[ADAPTER], config=plain)
    layer.set_adapter([ADAPTER, START])
    for matrix in (layer.lora_A[START], layer.lora_B[START]):
        matrix.weight.requires_grad_(False)
    if weight.is_meta:
        return
    start = start_from_base(weight, init, r, layer.scaling[ADAPTER])
    for matrices, value in zip((layer.lora_A, layer.lora_B), start, strict=True):
        for adapter in (ADAPTER, START):
            matrices[adapter].weight.data = value.to(weight.device, copy=True)
