"""Estimate of a training step on the model without its weights."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache, partial
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sdlora.assembly import adapters, lightning_trainer
from sdlora.assembly.data_source import is_streamed
from sdlora.assembly.device import DTYPES
from sdlora.assembly.empty_model import empty_family
from sdlora.assembly.optimizer import optimizer
from sdlora.config.train import TrainConfig
from sdlora.config.trainer import TrainerConfig
from sdlora.data.captions.recipe import is_static
from sdlora.data.pictures.cuts import Size
from sdlora.data.selection.picture_set import PictureSet
from sdlora.models.block_stream import streamed_bytes
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.models.memory import checkpoint_gradients, keep_activations
from sdlora.models.quantising import KINDS, saved_bytes
from sdlora.training.memory_settings import StepMemory
from sdlora.training.module import DiffusionModule
from sdlora.training.step_cost import BatchShape, StepCost, held_bytes, step_cost, tensors


def step_memory(
    config: TrainConfig, pictures: PictureSet, trainer: lightning.Trainer
) -> tuple[StepMemory, tuple[str, ...]]:
    """The cost of a step under the run's settings and others; reads no weight.

    Args:
        config: The run's config.
        pictures: The training pictures.
        trainer: Its device and precision.

    Returns:
        The costs, and the names of the model's parts that no step calls.

    Raises:
        RuntimeError: If the model's code reads values, which are not there.
    """
    device = trainer.strategy.root_device
    family = _empty_family(config, device)
    shape = batch_shape(config, pictures, family)
    cached = (shape.has_latents, shape.embeddings is not None)
    idle = idle_parts(config, family, device, *cached)
    precision = trainer.precision_plugin.forward_context  # Lightning's can be entered once
    return _step_memory(config, family, shape, idle, precision), idle


def batch_shape(config: TrainConfig, pictures: PictureSet, family: Family) -> BatchShape:
    """Shape of the run's largest batch."""
    data = config.data
    is_cached = data.cache.mode != "off" and not is_streamed(data)
    num_pictures, size = _largest_batch(config, pictures)
    embeddings = None
    trains_text = adapters.trains_text(config.lora, config.model.family)
    if is_cached and family.text_encoders and is_static(data.captions) and not trains_text:
        with torch.no_grad():
            longest = max((each.text for each in pictures.source.pictures), key=len, default="")
            ids = family.tokenize([longest]).ids.to(next(family.denoiser.parameters()).device)
            embeddings = tuple(family.encode_prompts(ids)[0].shape)
    return BatchShape(
        num_pictures=num_pictures,
        size=size,
        has_latents=is_cached,
        embeddings=embeddings,
    )


def _largest_batch(config: TrainConfig, pictures: PictureSet) -> tuple[int, Size]:
    """Number and size of the pictures of the batch with the most pixels.

    A batch holds pictures of one size, and no more than an epoch shows of it.
    """
    data = config.data
    if is_streamed(data) or not pictures.geometry:
        return data.batch_size, (data.resolution, data.resolution)
    samples: Counter[Size] = Counter()
    for picture, cut in zip(pictures.source.pictures, pictures.geometry, strict=True):
        samples[cut.bucket] += picture.repeats
    batches = [(min(count, data.batch_size), size) for size, count in samples.items()]
    return max(batches, key=lambda batch: (batch[0] * batch[1][0] * batch[1][1], batch))


def idle_parts(
    config: TrainConfig,
    family: Family,
    device: torch.device,
    has_latents: bool,
    has_embeddings: bool,
) -> tuple[str, ...]:
    """Names of parts that no step calls, since their outputs are cached: text encoders, VAE.

    Empty if the device has no memory of its own, and with several devices, since
    DistributedDataParallel needs the whole model on one device.

    Args:
        config: The run's config.
        family: The model.
        device: Device of the training.
        has_latents: Whether latents are cached.
        has_embeddings: Whether the captions' embeddings are cached.
    """
    if not is_one_gpu(config.trainer, device):
        return ()
    idle: list[str] = []
    if has_embeddings:  # and the teacher's prompt is known
        idle.extend(family.text_encoders)
    if has_latents and hasattr(family, "vae"):
        idle.append("vae")
    return tuple(idle)


def is_one_gpu(trainer: TrainerConfig, device: torch.device) -> bool:
    """Whether the run has one device, with memory of its own."""
    return device.type == "cuda" and trainer.devices * trainer.num_nodes == 1


def denoiser_of(config: TrainConfig) -> str:
    """Name of the part that predicts the target."""
    return description_of(config.model.family).denoiser


def _empty_family(config: TrainConfig, device: torch.device) -> Family:
    specs = adapters.lora_specs(config.lora, config.model.family)
    family = empty_family(config.model, config.lora, specs, config.trainer.precision, device)
    objective = config.objective
    family.change_noise_schedule(objective.prediction_type, objective.zero_terminal_snr)
    family.max_chunks = config.data.captions.max_chunks
    return family


def _step_memory(
    config: TrainConfig,
    family: Family,
    shape: BatchShape,
    idle: tuple[str, ...],
    precision: Callable[[], AbstractContextManager[Any]],
) -> StepMemory:
    module = lightning_trainer.module(config, family, None)
    if family.text_encoders and not adapters.trains_text(config.lora, config.model.family):
        family.keep_prompts(True)  # as the run does: no step asks them for the teacher's prompt
        module.encode_prompts(DTYPES[config.trainer.precision])
    denoiser, copies = family.denoiser, 1 + _draws_from_main_memory(config, family)
    drawing = (copies - 1) * held_bytes(frozen_weights(denoiser))
    measured = cache(partial(_estimate, config, module, shape, precision))
    streamed = {}
    if is_one_gpu(config.trainer, family.device):
        streamed = {kind: streamed_bytes(denoiser, kind) for kind in (None, "int8")}

    def estimate(is_recomputed: bool) -> StepCost:
        cost: StepCost = measured(is_recomputed)
        return replace(cost, weights=cost.weights + drawing)

    return StepMemory(
        batch_size=shape.num_pictures,
        estimate=estimate,
        idle_bytes=held_bytes(tensors([family.get_submodule(name) for name in idle])),
        quantised_bytes={kind: copies * saved_bytes(denoiser, kind) for kind in KINDS},
        streamed_bytes=streamed,
        resolution_step=family.resolution_step,
    )


def _draws_from_main_memory(config: TrainConfig, family: Family) -> bool:
    """Whether the denoiser of ``model.draw_with`` waits in the memory that steps are planned for.

    That is the main memory, which a CUDA device does not share.
    """
    return config.model.draw_with is not None and family.device.type != "cuda"


def frozen_weights(module: nn.Module) -> list[Tensor]:
    """The weights of a network that do not train."""
    return [weight for weight in tensors([module]) if not weight.requires_grad]


def _estimate(
    config: TrainConfig,
    module: DiffusionModule,
    shape: BatchShape,
    precision: Callable[[], AbstractContextManager[Any]],
    is_recomputed: bool,
) -> StepCost:
    (checkpoint_gradients if is_recomputed else keep_activations)(module.family)
    average = config.trainer.ema_decay is not None
    return step_cost(
        module, shape, precision(), partial(_optimizer_of, config), has_average=average
    )


def _optimizer_of(config: TrainConfig, parameter: nn.Parameter) -> Optimizer:
    scales_loss, denoiser = config.trainer.precision == "fp16", denoiser_of(config)
    trained = {denoiser: {"weight": parameter}}
    return optimizer(config.optim, trained, denoiser=denoiser, scales_loss=scales_loss)
