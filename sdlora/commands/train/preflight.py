"""Before step 1: what a step takes of the device's memory, what to change if that is too much, and
how long the run will take.

An estimate stops no run: it warns, and what is ``auto`` of ``trainer.offload`` and
``trainer.gradient_checkpointing`` it switches on, in this order.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import psutil
import torch
from torch import nn
from torch.optim import Optimizer

from sdlora.assembly.memory import checkpoint_gradients, keep_activations
from sdlora.assembly.optimizer import optimizer
from sdlora.commands.train.duration import described_time
from sdlora.commands.train.job import TrainingJob
from sdlora.data.batches.dataset import PictureDataset
from sdlora.models.quantising import saved_bytes
from sdlora.training.step_cost import (
    BatchShape,
    StepCost,
    held_bytes,
    recomputes,
    step_cost,
    tensors,
)

GIB = 2**30

HEADROOM = 1.2
"""A step is taken to need so many times what its tensors are: kernels want room to work in, and
the allocator loses some between blocks, which no count of tensors sees."""


OFFLOAD_NEEDS = "one CUDA GPU, and pictures or captions that are cached"


def check_cost(job: TrainingJob) -> list[nn.Module]:
    """Print what a step will take, what is free, and how long it all will be; warn, and help.

    Returns:
        Parts of the model that should wait in main memory while it trains.
    """
    config, idle = job.config.trainer, idle_parts(job)
    waiting = idle if config.offload is True else []
    if config.offload is True and not idle:
        job.progress.print(f"trainer.offload=true: nothing waits; it needs {OFFLOAD_NEEDS}")
    try:
        cost = without(_estimate(job), waiting)
    except RuntimeError as error:  # a model whose code looks at values
        job.progress.print(f"memory and time: not known before the first step ({error})")
        return waiting
    device = job.trainer.strategy.root_device
    room = held_bytes(tensors([job.family])) + free_bytes(device)  # the weights are there already
    job.progress.print(f"memory: {described(cost)}; {_size(room)} on {device} can be had")
    if not fits(cost, room) and idle and config.offload == "auto":
        waiting, cost = idle, without(cost, idle)
        _say_helped(job, "trainer.offload=auto", cost)
    if not fits(cost, room) and config.gradient_checkpointing == "auto":
        checkpoint_gradients(job.family)
        cost = without(_estimate(job), waiting)
        _say_helped(job, "trainer.gradient_checkpointing=auto", cost)
    if not fits(cost, room):
        _warn(job, cost, room, [] if waiting else idle)
    job.progress.print(described_time(job, cost))
    return waiting


def without(cost: StepCost, parts: list[nn.Module]) -> StepCost:
    """The same where these parts of the model are not on the device."""
    return replace(cost, weights=cost.weights - held_bytes(tensors(parts)))


def idle_parts(job: TrainingJob) -> list[nn.Module]:
    """What no step calls, as all that it would compute is cached: text encoders, VAE.

    None where the device has no memory of its own, nor with several devices, as
    DistributedDataParallel wants all of a model in one place.
    """
    config = job.config.trainer
    is_gpu = job.trainer.strategy.root_device.type == "cuda"
    if not is_gpu or config.devices * config.num_nodes > 1:
        return []
    shape, parts = batch_shape(job), list[nn.Module]()
    if shape.embeddings is not None and job.module.teacher is None:
        parts.extend(job.family.text_encoders.values())
    if shape.has_latents and hasattr(job.family, "vae"):
        parts.append(job.family.vae)  # type: ignore[arg-type]
    return parts


def described(memory: StepCost) -> str:
    """In words."""
    return (
        f"about {_size(memory.total)} at the peak of a step (weights {_size(memory.weights)}, "
        f"gradients and optimizer {_size(memory.gradients + memory.states)}, activations "
        f"{_size(memory.activations)})"
    )


def fits(needed: StepCost, room: int) -> bool:
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


def _say_helped(job: TrainingJob, setting: str, cost: StepCost) -> None:
    job.progress.print(f"{setting}: on, since it would not fit without: {described(cost)}")


def _warn(job: TrainingJob, cost: StepCost, room: int, idle: list[nn.Module]) -> None:
    job.progress.print(
        f"warning: this may not fit (kernels want about {HEADROOM - 1:.0%} more than tensors). "
        "What each change alone would make of it, the cheapest first:"
    )
    for change, changed in _changes(job, cost, room, idle):
        says = "fits" if fits(changed, room) else "not enough alone"
        job.progress.print(f"  {change}: about {_size(changed.total)}, {says}")


def _estimate(job: TrainingJob) -> StepCost:
    return step_cost(
        job.module,
        batch_shape(job),
        job.trainer.precision_plugin.forward_context(),
        partial(_optimizer_of, job),
        has_average=job.config.trainer.ema_decay is not None,
    )


def _optimizer_of(job: TrainingJob, parameter: nn.Parameter) -> Optimizer:
    return optimizer(job.config, {"unet": {"weight": parameter}})


def _changes(
    job: TrainingJob, now: StepCost, room: int, idle: list[nn.Module]
) -> Iterator[tuple[str, StepCost]]:
    """Settings that take less, in the order of what they cost, and what each makes of it.

    Activations grow with the pictures of a batch and with the pixels of a picture.
    """
    config = job.config
    if idle:
        yield "trainer.offload=true", without(now, idle)
    if not recomputes(job.module):
        checkpoint_gradients(job.family)
        changed = _estimate(job)
        yield "trainer.gradient_checkpointing=true", replace(changed, weights=now.weights)
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
