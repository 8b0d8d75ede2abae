"""Device and precision of a captioner."""

import torch

from sdlora.assembly.device import DTYPES, compute_device
from sdlora.captioning.captioner import Compute
from sdlora.config.rules import require


def found_compute(device: str, precision: str) -> Compute:
    """The device, and the precision that suits it: 16 bits on a CUDA GPU, else fp32.

    Args:
        device: ``auto`` or ``cpu``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        ConfigError: If fp16 is asked of a CPU, which computes it slowly or not at all.
    """
    found = compute_device(device)
    if precision == "auto":
        precision = "fp32"
        if found.type == "cuda":
            is_new = torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bf16" if is_new else "fp16"
    remedy = "needs a GPU; on the CPU use fp32"
    require(precision != "fp16" or found.type != "cpu", "--precision", precision, remedy)
    return Compute(found, DTYPES[precision])
