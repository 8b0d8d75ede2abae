"""Typed config -> device and precision of the computation."""

import torch
from lightning.pytorch.accelerators import MPSAccelerator

from sdlora.config.model import AUTO
from sdlora.config.rules import ConfigError
from sdlora.models.families import description_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def compute_device(accelerator: str) -> torch.device:
    """The torch device that Lightning would choose."""
    has_mps = MPSAccelerator.is_available()
    if accelerator == "auto":
        accelerator = "gpu" if has_mps or torch.cuda.is_available() else "cpu"
    gpu = "mps" if has_mps else "cuda"
    return torch.device({"gpu": gpu, "cpu": "cpu", "mps": "mps"}[accelerator])


def found_precision(precision: str, accelerator: str, family: str) -> str:
    """The precision of a run: ``auto`` becomes the best that its device computes in.

    Args:
        precision: ``trainer.precision``, or ``precision`` of evaluate.py.
        accelerator: ``trainer.accelerator``, or ``accelerator``.
        family: ``model.family``.

    Returns:
        ``bf16`` on a CUDA GPU with units for it, ``fp16`` on another one if the family works in it,
        else ``fp32``.
    """
    if precision != AUTO:
        return precision
    if accelerator not in ("auto", "gpu") or compute_device("auto").type != "cuda":
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp32" if description_of(family).is_flow else "fp16"


def check_device(accelerator: str, precision: str, compiles: bool = False) -> None:
    """Check that the machine has the configured device and precision, and can compile if set."""
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise ConfigError("trainer.accelerator=gpu: no GPU that torch can use; set it to auto")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("trainer.accelerator=mps: not available on this machine; set it to auto")
    if precision == "fp16" and not has_gpu:
        raise ConfigError("trainer.precision=fp16: needs a GPU; on the CPU use bf16 or fp32")
    if compiles and compute_device(accelerator).type == "cpu":
        raise ConfigError(
            "trainer.compile=True: torch 2.13 compiles wrong gradients on a CPU, by some percent "
            "where a batch is one picture; set it to false, or train on a GPU"
        )
