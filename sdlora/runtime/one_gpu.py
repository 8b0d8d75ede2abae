"""The choice of one GPU for each process that a sweep's launcher starts on a machine."""

import os
from collections.abc import MutableMapping

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"


def take_one_gpu(job_number: int, environment: MutableMapping[str, str] = os.environ) -> None:
    """Make one GPU visible to this process: round robin by its first job's number.

    Later jobs of the process stay with it. Call it before CUDA starts, which reads this once.
    """
    if not torch.cuda.is_initialized():
        set_one_visible(job_number, torch.cuda.device_count(), environment)


def set_one_visible(job_number: int, num_gpus: int, environment: MutableMapping[str, str]) -> None:
    """Leave one GPU in ``CUDA_VISIBLE_DEVICES``; one or none is left as it is.

    Args:
        job_number: From 0.
        num_gpus: Number of GPUs that are visible now.
        environment: Of the process; its list of names (numbers or UUIDs), if any, is kept to.
    """
    if num_gpus > 1:
        listed = environment.get(VISIBLE) or ",".join(map(str, range(num_gpus)))
        names = listed.split(",")[:num_gpus]
        environment[VISIBLE] = names[job_number % num_gpus].strip()
