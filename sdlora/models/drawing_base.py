"""Another base that draws: its denoiser's weights in place of the trained one's, under its adapter.

One denoiser with one adapter, whose frozen weights are exchanged while it draws: adapter, strengths
and pipeline are those of the training, and no second adapter can be out of date.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdlora.models.base_folder import is_distilled
from sdlora.models.base_noise import noise_schedule_config
from sdlora.models.description import FamilyDescription
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.models.flow_transformer import FlowTransformer
from sdlora.models.loading import empty_part, load_part
from sdlora.models.source import ModelError, ModelSource, schedule_folder

BASE_LAYER = "base_layer"
"""The layer that an adapter of peft wraps, in it."""


@dataclass(frozen=True, slots=True)
class DrawingBase:
    """What a distilled checkpoint has of its own: all but language model and VAE.

    Attributes:
        denoiser: Without an adapter; while it does not draw it lies in main memory.
        noise_schedule_config: Its ``scheduler_config.json`` as a mapping.
        is_distilled: Whether it says that it draws in few steps, without guidance.
    """

    denoiser: nn.Module
    noise_schedule_config: dict[str, Any]
    is_distilled: bool


def load_drawing_base(source: ModelSource, seed: int) -> DrawingBase:
    """Load the other base, frozen, in main memory.

    Args:
        source: A base with ``draw_with``.
        seed: Of parts with random weights, of which it has none.

    Raises:
        ModelError: If a file is missing or incomplete.
    """
    denoiser = load_part(description_of(source.family).denoiser, source, seed)
    denoiser.requires_grad_(False)
    return DrawingBase(
        denoiser.eval(), noise_schedule_config(source), is_distilled(schedule_folder(source))
    )


def check_drawing_base(training: ModelSource, drawing: ModelSource) -> None:
    """Refuse another base whose layers are not those of the trained one; reads no weight.

    Raises:
        ModelError: If its shapes differ, or its files are not whole.
    """
    description = description_of(training.family)
    own, other = (_shapes(description, source) for source in (training, drawing))
    differing = sorted(
        name for name in own.keys() | other.keys() if own.get(name) != other.get(name)
    )
    if differing:
        raise ModelError(
            f"model.draw_with={drawing.draw_with}: {len(differing)} weights of its "
            f"{description.denoiser} are not those of model.path={training.path} "
            f"({differing[0]}), so no adapter fits both; name the checkpoint that was distilled "
            "from that base, of the same size"
        )
    noise_schedule_config(drawing)


def _shapes(description: FamilyDescription, source: ModelSource) -> dict[str, tuple[int, ...]]:
    state = empty_part(description.denoiser, source).state_dict()
    return {name: tuple(each.shape) for name, each in state.items()}


@contextmanager
def drawing_weights(family: Family) -> Iterator[None]:
    """Have the other base's weights under the adapter and its noise schedule, inside the block.

    Nothing changes where the base of the training draws. The two change places layer by layer, so
    that a device has one denoiser and one layer more.
    """
    other = family.drawing_base
    if other is None:
        yield
        return
    assert isinstance(family, FlowTransformer), "no other family has a drawing base"
    trained = family.noise_schedule_config, family.is_distilled
    _change(family, other)
    try:
        family.noise_schedule_config = other.noise_schedule_config
        family.is_distilled = other.is_distilled
        yield
    finally:
        family.noise_schedule_config, family.is_distilled = trained
        _change(family, other)


def _change(family: Family, other: DrawingBase) -> None:
    if family.stream is not None:
        family.stream.forget()
    exchange_weights(family.denoiser, other.denoiser)


def exchange_weights(adapted: nn.Module, bare: nn.Module) -> None:
    """Exchange the weights of two networks of one architecture, in place, or none of them.

    Those of each come to the device where the other's are.

    Args:
        adapted: May have an adapter, which stays.
        bare: Has none.

    Raises:
        torch.OutOfMemoryError: If there is not enough memory; both are as they were then.
    """
    done: list[tuple[dict[str, Any], dict[str, Any], str]] = []
    try:
        for mine, theirs, name in _pairs(adapted, bare):
            _exchange(mine, theirs, name)
            done.append((mine, theirs, name))
    except BaseException:
        for mine, theirs, name in done:
            _exchange(mine, theirs, name)
        raise


def _pairs(
    adapted: nn.Module, bare: nn.Module
) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """The places of each weight in both networks, and its name there."""
    layers = dict(adapted.named_modules())
    for layer_name, theirs in bare.named_modules():
        wrapped = layers.get(f"{layer_name}.{BASE_LAYER}")
        mine = layers[layer_name] if wrapped is None else wrapped
        for own, other in (
            (mine._parameters, theirs._parameters),
            (mine._buffers, theirs._buffers),
        ):
            for name, weight in other.items():
                if weight is not None:
                    yield own, other, name


def _exchange(mine: dict[str, Any], theirs: dict[str, Any], name: str) -> None:
    own, other = mine[name], theirs[name]
    came, went = _moved(other, own.device), _moved(own, other.device)
    mine[name], theirs[name] = came, went


def _moved(weight: Tensor, device: torch.device) -> Tensor:
    moved = weight.to(device)
    if isinstance(weight, nn.Parameter) and not isinstance(moved, nn.Parameter):
        return nn.Parameter(moved, requires_grad=False)
    return moved
