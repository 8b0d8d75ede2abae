"""Estimate of memory and duration before step 1, with the settings that reduce memory.

An estimate stops no run: it warns, and switches on ``trainer.offload`` and
``trainer.gradient_checkpointing`` where they are ``auto``, in this order.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import psutil
import torch
from torch import nn
from torch.optim import Optimizer

from sdlora.assembly.optimizer import optimizer
from sdlora.commands.train.duration import described_time
from sdlora.commands.train.training_run import TrainingRun
from sdlora.data.batches.dataset import PictureDataset
from sdlora.models.memory import checkpoint_gradients, keep_activations
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
"""Assumed memory of a step relative to its tensors: kernels need workspace, and the allocator loses
some to fragmentation."""


OFFLOAD_NEEDS = "one CUDA GPU, and pictures or captions that are cached"


def check_cost(run: TrainingRun) -> list[nn.Module]:
    """Print estimated memory, free memory and duration; warn and save memory if necessary.

    Returns:
        Parts of the model to keep in main memory while training.
    """
    config, idle = run.config.trainer, idle_parts(run)
    waiting = idle if config.offload is True else []
    if config.offload is True and not idle:
        run.progress.print(f"trainer.offload=true has no effect; it needs {OFFLOAD_NEEDS}")
    try:
        cost = without(_estimate(run), waiting)
    except RuntimeError as error:  # a model whose code looks at values
        run.progress.print(f"memory and time: not known before the first step ({error})")
        return waiting
    device = run.trainer.strategy.root_device
    room = held_bytes(tensors([run.family])) + free_bytes(device)  # the weights are there already
    run.progress.print(f"memory: {described(cost)}; {_size(room)} free on {device}")
    if not fits(cost, room) and idle and config.offload == "auto":
        waiting, cost = idle, without(cost, idle)
        _say_helped(run, "trainer.offload=auto", cost)
    if not fits(cost, room) and config.gradient_checkpointing == "auto":
        checkpoint_gradients(run.family)
        cost = without(_estimate(run), waiting)
        _say_helped(run, "trainer.gradient_checkpointing=auto", cost)
    if not fits(cost, room):
        _warn(run, cost, room, [] if waiting else idle)
    run.progress.print(described_time(run, cost))
    return waiting


def without(cost: StepCost, parts: list[nn.Module]) -> StepCost:
    """The cost without these parts of the model on the device."""
    return replace(cost, weights=cost.weights - held_bytes(tensors(parts)))


def idle_parts(run: TrainingRun) -> list[nn.Module]:
    """Parts that no step calls, since their outputs are cached: text encoders, VAE.

    Empty if the device has no memory of its own, and with several devices, since
    DistributedDataParallel needs the whole model on one device.
    """
    config = run.config.trainer
    is_gpu = run.trainer.strategy.root_device.type == "cuda"
    if not is_gpu or config.devices * config.num_nodes > 1:
        return []
    shape, parts = batch_shape(run), list[nn.Module]()
    if shape.embeddings is not None and run.module.teacher is None:
        parts.extend(run.family.text_encoders.values())
    if shape.has_latents and hasattr(run.family, "vae"):
        parts.append(run.family.vae)  # type: ignore[arg-type]
    return parts


def described(memory: StepCost) -> str:
    """The cost as text."""
    return (
        f"about {_size(memory.total)} at the peak of a step (weights {_size(memory.weights)}, "
        f"gradients and optimizer {_size(memory.gradients + memory.states)}, activations "
        f"{_size(memory.activations)})"
    )


def fits(needed: StepCost, room: int) -> bool:
    """Whether ``room`` bytes are enough, with headroom for all but the weights."""
    return needed.weights + needed.new * HEADROOM <= room


def free_bytes(device: torch.device) -> int:
    """Free bytes of the device; on the CPU the system's, not a container's limit."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return int(psutil.virtual_memory().available)


def batch_shape(run: TrainingRun) -> BatchShape:
    """Shape of the run's largest batch."""
    data, batches = run.config.data, run.datamodule.dataset
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


def _say_helped(run: TrainingRun, setting: str, cost: StepCost) -> None:
    run.progress.print(f"{setting}: switched on, since a step needs it to fit: {described(cost)}")


def _warn(run: TrainingRun, cost: StepCost, room: int, idle: list[nn.Module]) -> None:
    run.progress.print(
        f"warning: this may not fit (kernels need about {HEADROOM - 1:.0%} more than tensors). "
        "Settings that reduce it, each alone, the cheapest first:"
    )
    for change, changed in _changes(run, cost, room, idle):
        says = "fits" if fits(changed, room) else "not enough alone"
        run.progress.print(f"  {change}: about {_size(changed.total)}, {says}")


def _estimate(run: TrainingRun) -> StepCost:
    return step_cost(
        run.module,
        batch_shape(run),
        run.trainer.precision_plugin.forward_context(),
        partial(_optimizer_of, run),
        has_average=run.config.trainer.ema_decay is not None,
    )


def _optimizer_of(run: TrainingRun, parameter: nn.Parameter) -> Optimizer:
    config = run.config
    scales_loss, denoiser = config.trainer.precision == "fp16", run.family.denoiser_name
    trained = {denoiser: {"weight": parameter}}
    return optimizer(config.optim, trained, denoiser=denoiser, scales_loss=scales_loss)


def _changes(
    run: TrainingRun, now: StepCost, room: int, idle: list[nn.Module]
) -> Iterator[tuple[str, StepCost]]:
    """Settings that reduce memory, the cheapest first, each with its estimate.

    Activations grow with the pictures of a batch and with the pixels of a picture.
    """
    config = run.config
    if idle:
        yield "trainer.offload=true", without(now, idle)
    if not recomputes(run.module):
        checkpoint_gradients(run.family)
        changed = _estimate(run)
        yield "trainer.gradient_checkpointing=true", replace(changed, weights=now.weights)
        keep_activations(run.family)
    batch = config.data.batch_size
    smaller = [n for n in range(batch - 1, 0, -1) if batch % n == 0]
    for num in smaller:
        changed = replace(now, activations=now.activations * num // batch)
        if fits(changed, room) or num == 1:
            window = config.trainer.accumulate_grad_batches * batch // num
            yield f"data.batch_size={num} trainer.accumulate_grad_batches={window}", changed
            break
    trains_denoiser = config.lora.part(run.family.denoiser_name).method == "full"
    if config.model.quantise is None and not trains_denoiser:
        weights = now.weights - saved_bytes(run.family.denoiser)
        yield "model.quantise=nf4", replace(now, weights=weights)
    side = config.data.resolution // 2
    if side % run.family.resolution_step == 0:
        yield f"data.resolution={side}", replace(now, activations=now.activations // 4)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.0f} MiB"
