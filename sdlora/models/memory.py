"""Memory and speed of a model: layout, gradient checkpointing, compilation."""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from sdlora.config.trainer import TrainerConfig
from sdlora.models.family import Family

MOST_GRAPHS = 256
"""Largest number of graphs of one function: each bucket, batch size and the bare base need one.
torch's default is 8."""


def memory_and_speed(config: TrainerConfig, device: torch.device, family: Family) -> None:
    """Apply compilation and memory layout of the config, in place."""
    if config.compile:
        compile_denoiser(family.denoiser)
    if config.precision == "fp32" or device.type != "cpu":
        for part in family.children():  # on a CPU in bf16 convolutions take a third longer so
            _lay_channels_last(part)


def _lay_channels_last(part: Any) -> None:
    """Lay the channels of weights last, but not of a DoRA's, which peft multiplies as views."""
    part.to(memory_format=torch.channels_last)
    for layer in part.modules():
        if isinstance(layer, LoraLayer) and layer.lora_magnitude_vector:
            for matrices in (layer.lora_A, layer.lora_B):
                matrices.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def compile_denoiser(denoiser: Any) -> None:
    """Compile the repeated blocks (or else all of it), with a graph for each shape.

    torch 2.13 fails to compile one graph for all shapes. Compiling the whole UNet takes two to
    three times as long for each shape (docs/speed.md).
    """
    torch.compiler.config.recompile_limit = MOST_GRAPHS
    compile_it = denoiser.compile_repeated_blocks if denoiser._repeated_blocks else denoiser.compile
    compile_it(dynamic=False)


def checkpoint_gradients(family: Family) -> None:
    """Recompute activations in the backward pass instead of keeping them."""
    family.denoiser.enable_gradient_checkpointing()
    # not re-entrant: that form freezes a text encoder whose inputs need no gradient
    for text_encoder in family.text_encoders.values():
        text_encoder.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


def keep_activations(family: Family) -> None:
    """Undo :func:`checkpoint_gradients`."""
    family.denoiser.disable_gradient_checkpointing()
    encoders: list[Any] = list(family.text_encoders.values())
    for text_encoder in encoders:
        if text_encoder.is_activation_checkpointing:
            text_encoder.activation_checkpointing_disable()
            text_encoder.disable_input_require_grads()  # which the library forgets at times
