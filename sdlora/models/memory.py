"""How a model lies in memory: layout, gradient checkpointing, and parts that wait elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sdlora.config.trainer import TrainerConfig
from sdlora.models.family import Family

MOST_GRAPHS = 256
"""Of one piece of code: a bucket, a batch to draw and the bare base have each their own. By itself
torch gives up compiling after 8."""


def memory_and_speed(config: TrainerConfig, device: torch.device, family: Family) -> None:
    """Gradient checkpointing, compilation and memory layout, as the config says, in place."""
    if config.gradient_checkpointing is True:  # "auto" waits for what a step will take
        checkpoint_gradients(family)
    if config.compile:
        compile_denoiser(family.denoiser)
    if config.precision == "fp32" or device.type != "cpu":
        for part in family.children():  # on a CPU in bf16 convolutions take a third longer so
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compile_denoiser(denoiser: Any) -> None:
    """Compile the blocks that repeat in it (else all of it), a graph for each shape that comes.

    One graph for all shapes cannot be had: torch 2.13 fails to write one at the second shape. The
    UNet compiled whole takes two to three times as long at each (docs/speed.md).
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


class Offload:
    """Parts that can wait in main memory.

    Whoever calls them says so by :meth:`called`, so that they move as a whole and nothing moves
    inside a step. accelerate's hooks, which move a part when it is called, leave it in two places
    where the device's memory ends in between.

    Args:
        parts: What no training step calls.
        device: Where they compute.
    """

    def __init__(self, parts: Sequence[nn.Module], device: torch.device) -> None:
        self._parts = parts
        self._device = device

    @contextmanager
    def called(self) -> Iterator[None]:
        """On the device inside the block, and away after it.

        Raises:
            torch.OutOfMemoryError: If there is no room for them; they are away then, too.
        """
        try:
            for part in self._parts:
                part.to(self._device)
            yield
        finally:
            self.send_away()

    def send_away(self) -> None:
        """Into main memory; what they took of the device is free for whoever asks."""
        for part in self._parts:
            part.to("cpu")
        if self._parts and torch.cuda.is_available():
            torch.cuda.empty_cache()
