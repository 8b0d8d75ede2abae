"""Settings that reduce the memory of a training step, in the order in which they are worth it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sdlora.training.step_cost import StepCost

HEADROOM = 1.2
"""Assumed memory of a step relative to its tensors: kernels need workspace, and the allocator loses
some to fragmentation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """What a step's memory depends on besides the model.

    Attributes:
        offload: ``trainer.offload``.
        gradient_checkpointing: ``trainer.gradient_checkpointing``.
        batch_size: ``data.batch_size``.
        quantise: ``model.quantise``.
        blocks: ``trainer.offload=blocks``: the denoiser's blocks wait as well.
    """

    offload: bool
    gradient_checkpointing: bool
    batch_size: int
    quantise: str | None
    blocks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """The cost of a step under other settings.

    Attributes:
        batch_size: Pictures of the batch that ``estimate`` is about: the largest that occurs.
        estimate: Whether activations are recomputed -> the cost of a step with all weights.
        idle_bytes: Weights that no step calls.
        quantised_bytes: ``model.quantise`` -> bytes of weights that it saves.
        streamed_bytes: ``model.quantise`` -> bytes of weights that waiting blocks save.
        resolution_step: Sides of pictures are multiples of it, in pixels.
    """

    batch_size: int
    estimate: Callable[[bool], StepCost]
    idle_bytes: int
    quantised_bytes: Mapping[str, int]
    streamed_bytes: Mapping[str | None, int] = field(default_factory=dict)
    resolution_step: int

    def cost(self, settings: MemorySettings) -> StepCost:
        """The cost of a step; activations and operations grow with the pictures of a batch."""
        whole = self.estimate(settings.gradient_checkpointing)
        saved = self.idle_bytes * settings.offload
        if settings.quantise is not None:
            saved += self.quantised_bytes[settings.quantise]
        if settings.blocks:
            saved += self.streamed_bytes.get(settings.quantise, 0)
        num_pictures = min(settings.batch_size, self.batch_size)
        return replace(
            whole,
            weights=whole.weights - saved,
            activations=whole.activations * num_pictures // self.batch_size,
            forward_flops=whole.forward_flops * num_pictures // self.batch_size,
            num_pictures=num_pictures,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Settings that may be changed: those that are ``auto`` or not set, and can have an effect.

    Attributes:
        offload: Parts of the model may wait in main memory.
        gradient_checkpointing: Activations may be computed again.
        smaller_batches: The batch may be split; the optimizer's step averages as many more.
        quantise: What the base may be rounded to, the finest first.
        blocks: The denoiser's blocks may wait in main memory.
    """

    offload: bool
    gradient_checkpointing: bool
    smaller_batches: bool
    quantise: Sequence[str]
    blocks: bool = False


def candidates(now: MemorySettings, allowed: Allowed) -> Iterator[MemorySettings]:
    """Settings in the order in which they are tried, from the present ones on.

    What changes no result comes first, then what costs time, and rounded weights last: offload,
    recomputed activations, the largest part of the batch, blocks that wait in main memory, the base
    in 8 bits, in 4. Blocks come after smaller batches, since they cross the bus twice for each
    batch, the more slowly the smaller it is; so they are tried with the whole batch again. Both
    come before rounding, since a run on a smaller card should give what a larger one does.
    """
    yield now
    if allowed.offload:
        now = replace(now, offload=True)
        yield now
    if allowed.gradient_checkpointing:
        now = replace(now, gradient_checkpointing=True)
        yield now
    sizes = smaller_batches(now.batch_size) if allowed.smaller_batches else []
    for size in sizes:
        yield replace(now, batch_size=size)
    if allowed.blocks:
        now = replace(now, offload=allowed.offload or now.offload, blocks=True)
        for size in (now.batch_size, *sizes):
            yield replace(now, gradient_checkpointing=True, batch_size=size)
    for kind in allowed.quantise:
        for size in (now.batch_size, *sizes):
            yield replace(now, batch_size=size, quantise=kind, blocks=streams(kind, now.blocks))


def streams(kind: str | None, blocks: bool) -> bool:
    """Whether blocks can be streamed: layers of bitsandbytes keep weights for the backward pass."""
    return blocks and kind != "nf4"


def smaller_batches(batch_size: int) -> list[int]:
    """Sizes that divide a batch into equal ones, the largest first."""
    return [size for size in range(batch_size - 1, 0, -1) if batch_size % size == 0]


def fits(needed: StepCost, room: int) -> bool:
    """Whether ``room`` bytes are enough, with headroom for all but the weights."""
    return needed.weights + needed.new * HEADROOM <= room


def chosen(
    memory: StepMemory, now: MemorySettings, allowed: Allowed, room: int
) -> tuple[MemorySettings, bool]:
    """The first candidate that fits, and whether one does; else the one that needs least.

    Args:
        memory: Costs of a step.
        now: The present settings.
        allowed: Settings that may change.
        room: Bytes of the device for weights and step.
    """
    tried = []
    for settings in candidates(now, allowed):
        cost = memory.cost(settings)
        if fits(cost, room):
            return settings, True
        tried.append((cost.weights + cost.new * HEADROOM, settings))
    return min(tried, key=lambda pair: pair[0])[1], False
