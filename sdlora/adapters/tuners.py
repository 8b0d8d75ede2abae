"""Types of adapters that peft's tuners train: config, layers and initial values of each."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, PeftConfig
from peft.tuners.loha import LoHaLayer
from peft.tuners.lokr import LoKrLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.oft import OFTLayer
from torch import Tensor, nn

from sdlora.adapters.layer_names import resolved, target_layers
from sdlora.adapters.oft import Strength, refuse_unfit_blocks, turned_widths
from sdlora.adapters.product_layers import without_draws
from sdlora.adapters.spec import LoraSpec
from sdlora.runtime.randomness import generator

ADAPTER = "default"
"""peft's name of the adapter that is trained."""

PARAMETERS = (".lora_", ".hada_", ".lokr_", ".oft_")
"""What the names of adapter parameters have in them."""


@dataclass(frozen=True, slots=True)
class Tuner:
    """How peft trains a type of adapter.

    Attributes:
        layer: peft's class of its layers.
        config: Spec, names of all its layers, and its targets in peft's form -> peft's config.
        zero: Of other types than LoRA, the parameter of a layer that begins at zero, so that the
            update does.
    """

    layer: type
    config: Callable[[LoraSpec, Sequence[str], list[str]], PeftConfig]
    zero: str


def _patterns(spec: LoraSpec, names: Sequence[str]) -> dict[str, Any]:
    return {
        "rank_pattern": resolved("rank_pattern", spec.rank_pattern, spec.r, names),
        "alpha_pattern": resolved("alpha_pattern", spec.alpha_pattern, spec.alpha, names),
    }


def _lora(spec: LoraSpec, names: Sequence[str], targets: list[str]) -> PeftConfig:
    return LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # peft divides it, so a float is right
        lora_dropout=spec.dropout,
        target_modules=targets,
        init_lora_weights="gaussian" if spec.init == "gaussian" else True,
        use_dora=spec.use_dora,
        use_rslora=spec.use_rslora,
        **_patterns(spec, names),
    )


def _loha(spec: LoraSpec, names: Sequence[str], targets: list[str]) -> PeftConfig:
    alpha: Any = spec.alpha
    return LoHaConfig(r=spec.r, alpha=alpha, target_modules=targets, **_patterns(spec, names))


def _lokr(spec: LoraSpec, names: Sequence[str], targets: list[str]) -> PeftConfig:
    alpha: Any = spec.alpha
    return LoKrConfig(
        r=spec.r,
        alpha=alpha,
        decompose_factor=spec.decompose_factor,
        target_modules=targets,
        **_patterns(spec, names),
    )


def _oft(spec: LoraSpec, names: Sequence[str], targets: list[str]) -> PeftConfig:
    return OFTConfig(r=0, oft_block_size=spec.oft_block_size, target_modules=targets)


TUNERS: Mapping[str, Tuner] = {
    "lora": Tuner(LoraLayer, _lora, "lora_B.weight"),
    "loha": Tuner(LoHaLayer, _loha, "hada_w2_b"),
    "lokr": Tuner(LoKrLayer, _lokr, "lokr_w1"),
    "oft": Tuner(OFTLayer, _oft, "oft_R.weight"),
}
"""``lora.type`` -> its tuner."""

_LAYERS: tuple[Any, ...] = tuple(tuner.layer for tuner in TUNERS.values())


def peft_config(module: nn.Module, spec: LoraSpec) -> PeftConfig:
    """The config by which peft adapts a part.

    Raises:
        LoraError: If a target or pattern matches nothing, or a layer that cannot be adapted so.
    """
    names = target_layers(module, spec.targets)
    if spec.type == "oft":
        refuse_unfit_blocks(turned_widths(module, names), spec.oft_block_size)
    has_pattern = any("*" in target for target in spec.targets)
    targets = names if has_pattern else list(spec.targets)
    return TUNERS[spec.type].config(spec, names, targets)


def adapter_layers(module: nn.Module) -> dict[str, Any]:
    """Layers with our adapter; as ``Any``, since peft's layers are typed as their mixins."""
    layers: list[tuple[str, Any]] = list(module.named_modules())
    return {
        name: layer for name, layer in layers if isinstance(layer, _LAYERS) and ADAPTER in layer.r
    }


def type_of(module: nn.Module) -> str | None:
    """``lora.type`` of the adapter of a part; ``None``: it has none."""
    layer = next(iter(adapter_layers(module).values()), None)
    return next((n for n, tuner in TUNERS.items() if isinstance(layer, tuner.layer)), None)


def raw_key(name: str) -> str:
    """The key of a parameter in peft's files, from its name in the model."""
    key = name.replace(f".{ADAPTER}", "")
    return key.removesuffix(".weight") if "lora_magnitude_vector" in key else key


def initialise(layer: Any, name: str, spec: LoraSpec, seed: int) -> None:
    """Give an adapted layer of a type other than LoRA its initial values, in place.

    They are peft's (Kaiming uniform, one matrix zero; OFT all zero), each drawn from a generator
    of its own, keyed by ``seed`` and the parameter's name.

    Args:
        layer: The layer.
        name: Its name in the part.
        spec: Spec of the adapter.
        seed: Seed of the initial weights.
    """
    if spec.type == "oft":
        layer.register_forward_hook(Strength())
    else:
        without_draws(layer)
    zero = TUNERS[spec.type].zero
    own = {
        raw_key(key): each for key, each in layer.named_parameters() if not key.startswith("base_")
    }
    for key, parameter in own.items():
        if not parameter.is_meta:
            fresh = torch.zeros(parameter.shape)
            if key != zero:
                draws = generator(seed, f"lora/{name}.{key}")
                fresh = _kaiming_uniform(parameter, draws)
            parameter.data = fresh.to(parameter.device)


def _kaiming_uniform(like: Tensor, draws: torch.Generator) -> Tensor:
    fresh = torch.empty(*like.shape, dtype=torch.float32, device="cpu")
    return nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=draws)
