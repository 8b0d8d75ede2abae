"""Estimate of the memory and arithmetic of a training step, without computing one."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode, is_fake
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sdlora.training.module import DiffusionModule


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """The properties of a batch that a step's cost depends on.

    Attributes:
        num_pictures: Pictures in one batch of one device.
        size: Width and height of the training pictures, in pixels; the largest bucket's.
        has_latents: Whether latents are cached.
        embeddings: Shape of one prompt's cached embeddings; ``None``: prompts are encoded.
    """

    num_pictures: int
    size: tuple[int, int]
    has_latents: bool
    embeddings: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Bytes on the training device at the peak of a step, and its arithmetic.

    Attributes:
        weights: Bytes of all weights of the model, trained or not.
        states: Bytes of the optimizer state, and of an average of the weights.
        gradients: Bytes of the trained weights' gradients.
        activations: Further bytes of forward and backward pass.
        forward_flops: Floating point operations of the forward pass, by torch's counter: those of
            matrix products, convolutions and attention.
        num_pictures: Pictures of the step's largest batch.
    """

    weights: int
    states: int
    gradients: int
    activations: int
    forward_flops: int
    num_pictures: int

    @property
    def new(self) -> int:
        """Bytes that the first step allocates."""
        return self.states + self.gradients + self.activations

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weights + self.new


def step_cost(
    module: DiffusionModule,
    shape: BatchShape,
    precision: AbstractContextManager[Any],
    make_optimizer: Callable[[nn.Parameter], Optimizer],
    has_average: bool = False,
) -> StepCost:
    """Estimate a training step; weights, modes and gradients stay as they are.

    Args:
        module: On the device that it trains on.
        shape: Of the batch.
        precision: Precision context of the step: Lightning's, or ``nullcontext()``.
        make_optimizer: One trained parameter -> its optimizer.
        has_average: Whether an average of the trained weights is kept beside them.

    Raises:
        RuntimeError: If the model's code reads values, which are not computed.
    """
    trained = list(module.all_trained_parameters().values())
    gradients = held_bytes(trained)
    states = state_bytes(trained, make_optimizer) + has_average * gradients
    activations, flops = activations_and_flops(module, shape, precision)
    return StepCost(
        weights=held_bytes(tensors([module.family])),
        states=states,
        gradients=gradients,
        activations=activations,
        forward_flops=flops,
        num_pictures=shape.num_pictures,
    )


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each counted once if several names share it."""
    return sum(t.nbytes for t in {id(t): t for t in tensors}.values())


def tensors(parts: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Parameters and buffers of all parts."""
    for part in parts:
        yield from part.parameters()
        yield from part.buffers()


def state_bytes(
    trained: Iterable[nn.Parameter], make_optimizer: Callable[[nn.Parameter], Optimizer]
) -> int:
    """Bytes of an optimizer's state, measured by a step on one parameter of each shape."""
    each: dict[torch.Size, int] = {}
    total = 0
    for parameter in trained:
        if parameter.shape not in each:
            empty = torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
            probe = nn.Parameter(empty)
            probe.grad = torch.ones_like(probe)
            optimizer = make_optimizer(probe)
            optimizer.step()
            state = tree_leaves(optimizer.state[probe])
            each[parameter.shape] = held_bytes(t for t in state if isinstance(t, Tensor))
        total += each[parameter.shape]
    return total


def activations_and_flops(
    module: DiffusionModule, shape: BatchShape, precision: AbstractContextManager[Any]
) -> tuple[int, int]:
    """Peak bytes of a step's activations, and the operations of its forward pass.

    Gradients of trained weights are not counted among the bytes. The model's own code runs on fake
    tensors, which have shapes, dtypes and lifetimes but no content. Without gradient checkpointing
    the peak is at the end of the forward pass, and the backward pass is skipped, since fake tensors
    are slow; with it the backward pass has the peak.
    """
    trained = list(module.all_trained_parameters().values())
    modes = [(each, each.training) for each in module.modules()]
    module.on_fit_start()
    model = list(tensors([module.family]))
    fake = detect_fake_mode(model) or FakeTensorMode(allow_non_fake_inputs=True)
    eager = torch.compiler.set_stance("force_eager")
    try:
        with torch.random.fork_rng(devices=[]), eager, fake:
            there = [
                each if is_fake(each) else fake.from_tensor(each, static_shapes=True)
                for each in model
            ]
            with _Live(there) as live:
                with precision, FlopCounterMode(display=False) as counter:
                    loss = step_loss(module, shape)
                most = live.most_bytes
                if recomputes(module):
                    torch.autograd.grad(loss, trained, allow_unused=True)
                    most = max(most, live.most_bytes - held_bytes(trained))
                return most, counter.get_total_flops()
    finally:
        for each, mode in modes:
            each.training = mode


def recomputes(module: DiffusionModule) -> bool:
    """Whether gradient checkpointing is on."""
    return any(getattr(each, "gradient_checkpointing", False) for each in module.family.modules())


def step_loss(module: DiffusionModule, shape: BatchShape) -> Tensor:
    """The loss of ``DiffusionModule.training_step``, on empty tensors of its shapes."""
    family, objective = module.family, module.objective
    device = next(family.denoiser.parameters()).device
    width, height = shape.size
    num, scale = shape.num_pictures, family.latent_scale
    if not shape.has_latents:
        family.encode_images(torch.empty(num, 3, height, width, device=device))
    if shape.embeddings is None:
        length = family.tokenize([""]).ids.shape[1]
        ids = torch.zeros(num, length, dtype=torch.int64, device=device)
        trains_text = any(module.trained_parameters(part) for part in family.text_encoders)
        with torch.set_grad_enabled(trains_text):
            conditioning = family.encode_prompts(ids)
    else:
        conditioning = torch.empty(num, *shape.embeddings, device=device)
    z = torch.empty(num, family.denoiser.config.in_channels, height // scale, width // scale)
    z = z.to(device)
    t = objective.noise.sample_timesteps(torch.zeros(num)).to(device)
    sizes = torch.empty(num, 6, device=device)
    loss = objective.loss(family.denoise(z, t, conditioning, sizes), z, t)
    if module.teacher is not None:
        loss = loss + module.prior_loss(module.teacher.token_ids, z, t, sizes)
    return loss


class _Live(TorchDispatchMode):
    """Counts the bytes of storages that operations allocate, while they live.

    Args:
        there: Tensors that exist before.
    """

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.most_bytes = 0
        self._bytes = 0
        self._storages = [tensor.untyped_storage() for tensor in there]
        self._known = {storage._cdata for storage in self._storages}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, num_bytes = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._bytes += num_bytes
        self.most_bytes = max(self.most_bytes, self._bytes)
        weakref.finalize(storage, self._forget, key, num_bytes)

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self._bytes -= num_bytes
