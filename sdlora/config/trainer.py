"""The typed schema of ``trainer.*``: steps, devices, precision and memory."""

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from sdlora.config.effect import above, absent, where
from sdlora.config.model import AUTO, PRECISIONS
from sdlora.config.rules import (
    require,
    require_choice,
    require_count,
    require_fraction,
    require_rate,
)

RESERVED_GIB = 0.5
"""Assumed part of ``trainer.memory_gb`` that driver and libraries hold; on a GPU not measured."""


@dataclass(slots=True, kw_only=True)
class TrainerConfig:
    """Length of the run, devices, precision, and memory."""

    max_steps: int = field(default=MISSING, metadata=where(absent("trainer.max_epochs")))
    """Optimizer steps of the run; epochs follow from it. >= 1."""
    max_epochs: float | None = None
    """Length of the run in epochs, turned into ``max_steps``, in place of it; > 0. ``null``: as
    ``max_steps`` says."""
    accelerator: str = MISSING
    """``auto``, ``cpu``, ``gpu`` or ``mps``."""
    devices: int = MISSING
    """Number of devices on each machine; >= 1. With several, each has a process of its own, and a
    step averages ``accumulate_grad_batches`` batches of each."""
    num_nodes: int = MISSING
    """Number of machines, each with ``devices``; >= 1. Several are started by torchrun or Slurm."""
    timeout_min: int = field(
        default=MISSING,
        metadata=where((above("trainer.devices", 1), above("trainer.num_nodes", 1))),
    )
    """Minutes that several devices wait for each other, such as for the first one, which alone
    caches, draws and scores; >= 1."""
    precision: str = MISSING
    """Compute precision: fp32, bf16, fp16, or auto: bf16 on a CUDA GPU that has it, fp16 on another
    one, else fp32. LoRA weights, noise and loss are always float32."""
    accumulate_grad_batches: int = MISSING
    """Batches of each device that one optimizer step averages; >= 1."""
    gradient_clip_val: float | None = None
    """Largest gradient norm; ``null`` does not clip. > 0."""
    gradient_checkpointing: Any = MISSING  # OmegaConf merges no ``bool | str``
    """Recompute activations in the backward pass: less memory, about a third more time, the same
    result. ``true``, ``false``, or ``auto``: if a step would not fit the device's memory."""
    offload: Any = MISSING
    """Keep text encoders and VAE in main memory while everything that they compute is cached;
    drawing brings them back. ``blocks``: the denoiser's frozen blocks wait there as well, and each
    comes to the device while it computes (with ``gradient_checkpointing``): the same result, and
    time. ``true``, ``false``, or ``auto``: as much of this as a step needs to fit the device's
    memory. It has an effect with one CUDA GPU."""
    memory_gb: float | None = None
    """Memory that the run plans for, in GiB: that of the card, such as 8; > 0.5. ``null``: what is
    free. Where a step would not fit, the plan switches on ``offload`` and
    ``gradient_checkpointing`` if they are ``auto``, then splits the batch and averages as many
    more, then lets blocks of the denoiser wait, then rounds the base to 8 or 4 bits
    (``model.quantise``), and says so. A resumed run keeps batches and base."""
    compile: bool = MISSING
    """``torch.compile`` what repeats in the UNet: the first step of each size of picture, and the
    first drawing, take long; see docs/speed.md for what it brings. Not on a CPU."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the trained weights and use it; [0, 1)."""
    log_every_n_steps: int = MISSING
    """Optimizer steps between logged points of the curves; >= 1."""

    def __post_init__(self) -> None:
        require_choice("trainer.precision", self.precision, (*PRECISIONS, AUTO))
        require_choice("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu", "mps"))
        counts = ("max_steps", "devices", "num_nodes", "timeout_min")
        for name in (*counts, "accumulate_grad_batches", "log_every_n_steps"):
            require_count(f"trainer.{name}", getattr(self, name))
        require(
            not (self.accelerator == "mps" and self.devices * self.num_nodes > 1),
            "trainer.devices",
            self.devices,
            "mps has one device; set it and trainer.num_nodes to 1",
        )
        if self.max_epochs is not None:
            require_rate("trainer.max_epochs", self.max_epochs)
        for name in ("gradient_checkpointing", "offload"):
            value = getattr(self, name)
            is_known = isinstance(value, bool) or value == "auto"
            is_known = is_known or (name == "offload" and value == "blocks")
            known = "true, false, auto or blocks" if name == "offload" else "true, false or auto"
            require(is_known, f"trainer.{name}", value, f"must be {known}")
        reasons = {
            "brings a block's weights again where its activations are computed again; set "
            "trainer.gradient_checkpointing=true": self.gradient_checkpointing is False,
            "changes weights under compiled blocks; set trainer.compile=false": self.compile,
        }
        for reason, is_so in reasons.items():
            is_fine = self.offload != "blocks" or not is_so
            require(is_fine, "trainer.offload", "blocks", f"{reason}, or this to true")
        if self.memory_gb is not None:
            require(
                math.isfinite(self.memory_gb) and self.memory_gb > RESERVED_GIB,
                "trainer.memory_gb",
                self.memory_gb,
                f"must be over {RESERVED_GIB}, which driver and libraries hold; a card of 8 GB: 8",
            )
        if self.gradient_clip_val is not None:
            require_rate("trainer.gradient_clip_val", self.gradient_clip_val)
        if self.ema_decay is not None:
            require_fraction("trainer.ema_decay", self.ema_decay)
        require(
            not (self.precision == "fp16" and self.accelerator == "cpu"),
            "trainer.precision",
            "fp16",
            "needs a GPU; on the CPU use bf16 or fp32",
        )
