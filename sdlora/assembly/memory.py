"""How a model lies in memory, and what of a step it keeps there."""

from typing import Any

import torch

from sdlora.assembly.device import compute_device
from sdlora.config.trainer import TrainerConfig
from sdlora.models.family import Family


def memory_and_speed(config: TrainerConfig, family: Family) -> None:
    """Gradient checkpointing, compilation and memory layout, as the config says."""
    if config.gradient_checkpointing is True:  # "auto" waits for what a step will take
        checkpoint_gradients(family)
    if config.compile:
        compile_unet(family.unet)
    if config.precision == "fp32" or compute_device(config.accelerator).type != "cpu":
        for part in family.children():  # on a CPU in bf16 convolutions take a third longer so
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


MOST_GRAPHS = 256
"""Of one piece of code: a bucket, a batch to draw and the bare base have each their own. By itself
torch gives up compiling after 8."""


def compile_unet(unet: Any) -> None:
    """Compile the blocks that repeat in it (else all of it), a graph for each shape that comes.

    One graph for all shapes cannot be had: torch 2.13 fails to write one at the second shape. The
    UNet compiled whole takes two to three times as long at each (docs/speed.md).
    """
    torch.compiler.config.recompile_limit = MOST_GRAPHS
    compile_it = unet.compile_repeated_blocks if unet._repeated_blocks else unet.compile
    compile_it(dynamic=False)


def checkpoint_gradients(family: Family) -> None:
    """Recompute activations in the backward pass instead of keeping them."""
    family.unet.enable_gradient_checkpointing()
    # not re-entrant: that form freezes a text encoder whose inputs need no gradient
    for text_encoder in family.text_encoders.values():
        text_encoder.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


def keep_activations(family: Family) -> None:
    """Undo :func:`checkpoint_gradients`."""
    family.unet.disable_gradient_checkpointing()
    encoders: list[Any] = list(family.text_encoders.values())
    for text_encoder in encoders:
        if text_encoder.is_activation_checkpointing:
            text_encoder.activation_checkpointing_disable()
            text_encoder.disable_input_require_grads()  # which the library forgets at times
