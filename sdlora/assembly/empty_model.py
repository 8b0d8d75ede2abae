"""Typed config -> the model with adapters, without its weights: shapes, dtypes and a device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from sdlora.adapters.spec import LoraSpec
from sdlora.assembly import adapters
from sdlora.assembly.base_model import model_source
from sdlora.assembly.device import DTYPES
from sdlora.assembly.new_word import teach
from sdlora.config.lora import LoraConfig
from sdlora.config.model import ModelConfig
from sdlora.models.base_noise import noise_schedule_config
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.models.loading import empty_part, load_tokenizers
from sdlora.models.source import resolve


def empty_family(
    model: ModelConfig,
    lora: LoraConfig,
    specs: Mapping[str, LoraSpec],
    precision: str,
    device: torch.device,
) -> Family:
    """The model that training would load, with its adapters, by its ``config.json`` files alone.

    Its weights are torch's fake tensors: they take no memory, and have no content. Not quantised.

    Args:
        model: The base.
        lora: Parts that train.
        specs: The adapter of each part that has one.
        precision: ``fp32``, ``bf16`` or ``fp16`` of frozen weights.
        device: Where the weights would be.

    Raises:
        ModelError: If a file of the model's folder is missing.
    """
    description, source = description_of(model.family), model_source(model)
    parts: dict[str, Any] = {name: empty_part(name, source) for name in description.parts}
    methods = lora.methods(description.trainable)
    for name, part in parts.items():
        own = model.vae_precision if name == "vae" else None
        trains_all = methods.get(name) == "full"
        dtype = torch.float32 if trains_all else DTYPES[own or precision]
        nn.Module.to(part, dtype)  # diffusers' own warns of parts that must be float32: of none
    tokenizers = load_tokenizers(resolve(source), model.family)
    given: dict[str, Any] = {"clip_skip": model.clip_skip} if description.is_clip else {}
    family = description.make(
        **parts,
        **dict(zip(description.tokenizers, tokenizers, strict=True)),
        noise_schedule_config=noise_schedule_config(source),
        **given,
    )
    for part, method in methods.items():
        family.parts[part].requires_grad_(method == "full")
    adapters.add_adapters(family, specs, seed=0)
    teach(family, lora.new_word)
    _on_device(family, device)
    return family


def _on_device(family: nn.Module, device: torch.device) -> None:
    """Replace tensors of the meta device by fake ones of a real device, shared ones once."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty: Tensor = FakeTensor(mode, tensor.detach().to("meta"), device)
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, tensor.requires_grad)
            made[id(tensor)] = empty
        return made[id(tensor)]

    for module in family.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fake(tensor)  # type: ignore[assignment]
