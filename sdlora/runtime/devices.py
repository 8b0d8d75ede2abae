"""Copies of tensors to the compute device."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``, without waiting for work that is queued there.

    A GPU runs behind the process that feeds it; a blocking copy would wait until it has caught up.
    Apple's GPUs are waited for, as torch has lost such copies there (pytorch issue 139550).
    """
    return tensor.to(device, non_blocking=device.type != "mps")
