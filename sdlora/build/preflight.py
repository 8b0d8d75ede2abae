"""Before step 1: what a step takes of the device's memory, and what to change if that is too much.

An estimate stops no run: it warns, and where ``trainer.gradient_checkpointing`` is ``auto`` it
switches that on.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import psutil
import torch
from torch import nn
from torch.optim import Optimizer

from sdlora.build.job import TrainingJob
from sdlora.build.memory import checkpoint_gradients, keep_activations
from sdlora.build.optimizer import optimizer
from sdlora.data.dataset import PictureDataset
from sdlora.models.quantising import saved_bytes
from sdlora.step_memory import BatchShape, StepMemory, recomputes, step_memory

GIB = 2**30

HEADROOM = 1.2
"""A step is taken to need so many times what its tensors are: kernels want room to work in, and
the allocator loses some between blocks, which no count of tensors sees."""


def check_memory(job: TrainingJob) -> None:
    """Print what a step will take and what is free; warn, and help, where it does not fit."""
    try:
        needed = _estimate(job)
    except RuntimeError as error:  # a model whose code looks at values
        job.progress.print(f"memory: not known before the first step ({error})")
        return
    device = job.trainer.strategy.root_device
    room = needed.weights + free_bytes(device)  # the weights are there already
    job.progress.print(f"memory: {described(needed)}; {_size(room)} on {device} can be had")
    if fits(needed, room):
        return
    if job.config.trainer.gradient_checkpointing == "auto":
        checkpoint_gradients(job.family)
        needed = _estimate(job)
        text = "trainer.gradient_checkpointing=auto: on, since it would not fit without"
        job.progress.print(f"{text}: {described(needed)}")
    if not fits(needed, room):
        job.progress.print(
            f"warning: this may not fit (kernels want about {HEADROOM - 1:.0%} more than tensors). "
            "What each change alone would make of it, the cheapest first:"
        )
        for change, changed in _changes(job, needed, room):
            says = "fits" if fits(changed, room) else "not enough alone"
            job.progress.print(f"  {change}: about {_size(changed.total)}, {says}")


def described(memory: StepMemory) -> str:
    """In words."""
    return (
        f"about {_size(memory.total)} at the peak of a step (weights {_size(memory.weights)}, "
        f"gradients and optimizer {_size(memory.gradients + memory.states)}, activations "
        f"{_size(memory.activations)})"
    )


def fits(needed: StepMemory, room: int) -> bool:
    """Whether so many bytes are enough, with headroom beside the weights."""
    return needed.weights + needed.new * HEADROOM <= room


def free_bytes(device: torch.device) -> int:
    """Of the device, for this process; a container's own limit is not seen on the CPU."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return int(psutil.virtual_memory().available)


def batch_shape(job: TrainingJob) -> BatchShape:
    """Of the run's largest batch."""
    data, batches = job.config.data, job.datamodule.dataset
    sizes = [(data.resolution, data.resolution)]
    latents = embeddings = None
    if isinstance(batches, PictureDataset):
        sizes = [geometry.bucket for geometry in batches.geometry]
        latents = batches.latents
        if batches.embeddings is not None:
            embeddings = tuple(batches.embeddings.rows(torch.tensor([0])).shape[1:])
    return BatchShape(
        num_pictures=data.batch_size,
        size=max(sizes, key=lambda size: size[0] * size[1]),
        has_latents=latents is not None,
        embeddings=embeddings,
    )


def _estimate(job: TrainingJob) -> StepMemory:
    return step_memory(
        job.module,
        batch_shape(job),
        job.trainer.precision_plugin.forward_context(),
        partial(_optimizer_of, job),
        has_average=job.config.trainer.ema_decay is not None,
    )


def _optimizer_of(job: TrainingJob, parameter: nn.Parameter) -> Optimizer:
    return optimizer(job.config, {"unet": {"weight": parameter}})


def _changes(job: TrainingJob, now: StepMemory, room: int) -> Iterator[tuple[str, StepMemory]]:
    """Settings that take less, in the order of what they cost, and what each makes of it.

    Activations grow with the pictures of a batch and with the pixels of a picture.
    """
    config = job.config
    if not recomputes(job.module):
        checkpoint_gradients(job.family)
        yield "trainer.gradient_checkpointing=true", _estimate(job)
        keep_activations(job.family)
    batch = config.data.batch_size
    smaller = [n for n in range(batch - 1, 0, -1) if batch % n == 0]
    for num in smaller:
        changed = replace(now, activations=now.activations * num // batch)
        if fits(changed, room) or num == 1:
            window = config.trainer.accumulate_grad_batches * batch // num
            yield f"data.batch_size={num} trainer.accumulate_grad_batches={window}", changed
            break
    if config.model.quantise is None and config.lora.unet.method != "full":
        weights = now.weights - saved_bytes(job.family.unet)
        yield "model.quantise=nf4", replace(now, weights=weights)
    side = config.data.resolution // 2
    if side % job.family.resolution_step == 0:
        yield f"data.resolution={side}", replace(now, activations=now.activations // 4)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.0f} MiB"
