"""Plan of a run's memory before any weight is read, and its settings where a step would not fit.

A plan stops no run: it warns, and changes settings that leave the training as it is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec

import lightning
import psutil
import torch

from sdlora.commands.train.step_estimate import denoiser_of, is_one_gpu, step_memory
from sdlora.config.lora import FROM_BASE
from sdlora.config.train import TrainConfig
from sdlora.config.trainer import RESERVED_GIB, TrainerConfig
from sdlora.data.selection.picture_set import PictureSet
from sdlora.models.quantising import KINDS
from sdlora.runtime.progress import Progress
from sdlora.training.memory_settings import (
    HEADROOM,
    Allowed,
    MemorySettings,
    StepMemory,
    chosen,
    fits,
    smaller_batches,
    streams,
)
from sdlora.training.step_cost import StepCost

GIB = 2**30

OFFLOAD_NEEDS = "one CUDA GPU, and pictures or captions that are cached"
BLOCKS_NEED = "one CUDA GPU, and a denoiser with blocks that repeat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run's settings of memory.

    Attributes:
        config: The config, with the batches and the base of the plan.
        cost: The estimated cost of a step; ``None``: not known.
        offload: Whether parts that no step calls are kept in main memory while training.
        gradient_checkpointing: Whether activations are recomputed.
        blocks: Whether the denoiser's blocks wait in main memory, too.
    """

    config: TrainConfig
    cost: StepCost | None
    offload: bool
    gradient_checkpointing: bool
    blocks: bool = False


def plan(
    config: TrainConfig,
    pictures: PictureSet,
    trainer: lightning.Trainer,
    progress: Progress,
    *,
    is_resumed: bool,
) -> Plan:
    """Estimate a step, print it, and choose settings with which it fits.

    Args:
        config: The run's config.
        pictures: The training pictures.
        trainer: Its device and precision.
        progress: Prints.
        is_resumed: Keep batches and base as they are.
    """
    device = trainer.strategy.root_device
    now = present(config, can_stream=is_one_gpu(config.trainer, device))
    try:
        memory, idle = step_memory(config, pictures, trainer)
        settings, is_enough, room = _choose(config, memory, now, bool(idle), device, is_resumed)
        before, cost = memory.cost(now), memory.cost(settings)
    except Exception as error:  # whatever fails here, the run itself may do well
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        progress.print(f"memory and time: not known before the first step ({told})")
        if (card := config.trainer.memory_gb) is not None:
            progress.print(f"warning: trainer.memory_gb={card:g}: without effect, for that reason")
        return Plan(
            config=config,
            cost=None,
            offload=now.offload,
            gradient_checkpointing=now.gradient_checkpointing,
            blocks=now.blocks,
        )
    progress.print(f"memory: {described(before)}; {_room(config.trainer, room, device)}")
    if config.trainer.offload is True and not idle:
        progress.print(f"trainer.offload=true has no effect; it needs {OFFLOAD_NEEDS}")
    if config.trainer.offload == "blocks" and not any(memory.streamed_bytes.values()):
        progress.print(f"trainer.offload=blocks has no effect; it needs {BLOCKS_NEED}")
    planned = with_settings(config, settings)
    if settings != now:
        changes = " ".join(changed_values(config, now, settings))
        progress.print(f"plan: {changes}, so that a step fits: {described(cost)}")
    if not is_enough:
        _warn(_further(config, memory, settings, room, bool(idle)), room, progress)
    return Plan(
        config=planned,
        cost=cost,
        offload=settings.offload,
        gradient_checkpointing=settings.gradient_checkpointing,
        blocks=settings.blocks,
    )


def present(config: TrainConfig, *, can_stream: bool = True) -> MemorySettings:
    """The settings before the plan; what is ``auto`` is off, but what others need.

    Args:
        config: The run's config.
        can_stream: Whether blocks can wait in a memory other than the device's.
    """
    blocks = config.trainer.offload == "blocks" and can_stream
    return MemorySettings(
        offload=config.trainer.offload in (True, "blocks"),
        gradient_checkpointing=config.trainer.gradient_checkpointing is True or blocks,
        batch_size=config.data.batch_size,
        quantise=config.model.quantise,
        blocks=blocks,
    )


def with_settings(config: TrainConfig, settings: MemorySettings) -> TrainConfig:
    """The config with these batches and base; smaller batches are averaged to the same step.

    ``trainer.offload`` and ``trainer.gradient_checkpointing`` change no weight, and stay as they
    were asked for.
    """
    return replace(
        config,
        model=replace(config.model, quantise=settings.quantise),
        data=replace(config.data, batch_size=settings.batch_size),
        trainer=replace(
            config.trainer, accumulate_grad_batches=_window(config, settings.batch_size)
        ),
    )


def changed_values(config: TrainConfig, now: MemorySettings, then: MemorySettings) -> list[str]:
    """``key=value`` of each setting that a plan changes."""
    values = []
    if now.blocks != then.blocks:
        values.append("trainer.offload=blocks")
    elif now.offload != then.offload:
        values.append("trainer.offload=true")
    if now.gradient_checkpointing != then.gradient_checkpointing:
        values.append("trainer.gradient_checkpointing=true")
    if now.batch_size != then.batch_size:
        values.append(_batches(config, then.batch_size))
    if now.quantise != then.quantise:
        values.append(f"model.quantise={then.quantise}")
    return values


def _batches(config: TrainConfig, batch_size: int) -> str:
    window = _window(config, batch_size)
    return f"data.batch_size={batch_size} trainer.accumulate_grad_batches={window}"


def _window(config: TrainConfig, batch_size: int) -> int:
    """Batches of this size that hold as many pictures as the config's."""
    return config.trainer.accumulate_grad_batches * config.data.batch_size // batch_size


def described(memory: StepCost) -> str:
    """The cost as text."""
    return (
        f"about {_size(memory.total)} at the peak of a step (weights {_size(memory.weights)}, "
        f"gradients and optimizer {_size(memory.gradients + memory.states)}, activations "
        f"{_size(memory.activations)})"
    )


def free_bytes(device: torch.device) -> int:
    """Free bytes of the device; on the CPU the system's, not a container's limit."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return int(psutil.virtual_memory().available)


def _choose(
    config: TrainConfig,
    memory: StepMemory,
    now: MemorySettings,
    has_idle: bool,
    device: torch.device,
    is_resumed: bool,
) -> tuple[MemorySettings, bool, int]:
    """The settings, whether a step fits with them, and the bytes that there are for it.

    Several devices must have the same batches, so these follow ``trainer.memory_gb`` alone, which
    is one for all, and not what is free on each.
    """
    trainer = config.trainer
    room = free_bytes(device)
    if trainer.memory_gb is not None:
        room = round((trainer.memory_gb - RESERVED_GIB) * GIB)
    is_several = trainer.devices * trainer.num_nodes > 1
    is_settled = is_resumed or (is_several and trainer.memory_gb is None)
    allowed = Allowed(
        offload=trainer.offload == "auto" and has_idle,
        gradient_checkpointing=trainer.gradient_checkpointing == "auto",
        smaller_batches=not is_settled,
        quantise=_kinds(config) if not is_settled else (),
        blocks=trainer.offload == "auto"
        and trainer.gradient_checkpointing is not False
        and not trainer.compile
        and streams(config.model.quantise, any(memory.streamed_bytes.values())),
    )
    return *chosen(memory, now, allowed, room), room


def _kinds(config: TrainConfig) -> tuple[str, ...]:
    """What a plan may round the base to."""
    lora = config.lora
    if not _can_round(config) or lora.init in FROM_BASE or lora.type != "lora":
        return ()
    return tuple(kind for kind in KINDS if kind == "int8" or find_spec("bitsandbytes") is not None)


def _can_round(config: TrainConfig) -> bool:
    """Whether the denoiser is frozen, and not rounded already."""
    is_frozen = config.lora.part(denoiser_of(config)).method != "full"
    return is_frozen and config.model.quantise is None


def _room(trainer: TrainerConfig, room: int, device: torch.device) -> str:
    if trainer.memory_gb is None:
        return f"{_size(room)} free on {device}"
    return f"planned for trainer.memory_gb={trainer.memory_gb:g}, {RESERVED_GIB} GiB of it reserved"


def _warn(changes: Iterable[tuple[str, StepCost]], room: int, progress: Progress) -> None:
    """Say that a step may not fit, and what else would reduce it, each alone."""
    progress.print(
        f"warning: this may not fit (kernels need about {HEADROOM - 1:.0%} more than tensors). "
        "Settings that reduce it, each alone, the cheapest first:"
    )
    for change, cost in changes:
        says = "fits" if fits(cost, room) else "not enough alone"
        progress.print(f"  {change}: about {_size(cost.total)}, {says}")


def _further(
    config: TrainConfig,
    memory: StepMemory,
    now: MemorySettings,
    room: int,
    has_idle: bool,
) -> Iterator[tuple[str, StepCost]]:
    """Settings that the plan may not change, the cheapest first, each with its estimate."""
    if has_idle and not now.offload:
        yield "trainer.offload=true", memory.cost(replace(now, offload=True))
    if not now.gradient_checkpointing:
        cost = memory.cost(replace(now, gradient_checkpointing=True))
        yield "trainer.gradient_checkpointing=true", cost
    for num in smaller_batches(now.batch_size):
        cost = memory.cost(replace(now, batch_size=num))
        if fits(cost, room) or num == 1:
            yield _batches(config, num), cost
            break
    if any(memory.streamed_bytes.values()) and streams(now.quantise, not now.blocks):
        changed = replace(now, offload=True, blocks=True, gradient_checkpointing=True)
        yield "trainer.offload=blocks trainer.gradient_checkpointing=true", memory.cost(changed)
    for kind in KINDS if now.quantise is None and _can_round(config) else ():
        changed = replace(now, quantise=kind, blocks=streams(kind, now.blocks))
        yield f"model.quantise={kind}", memory.cost(changed)
    half = config.data.resolution // 2
    if half % memory.resolution_step == 0:
        cost = memory.cost(now)
        yield f"data.resolution={half}", replace(cost, activations=cost.activations // 4)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.0f} MiB"
