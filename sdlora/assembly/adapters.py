"""Adapters that a config asks for: do they fit the model's layers, and the file they start from?"""

from collections.abc import Mapping

from torch import nn

from sdlora.adapters.lora import adapted_layers, add_lora
from sdlora.adapters.spec import LoraError, LoraSpec
from sdlora.assembly.base_model import model_source
from sdlora.assembly.init_from import Asked, require_same, start_file
from sdlora.config.lora import LoraConfig
from sdlora.config.rules import ConfigError, require
from sdlora.config.train import TrainConfig
from sdlora.models.family import Family
from sdlora.models.layouts import layout_of
from sdlora.models.loading import empty_part
from sdlora.runtime.randomness import derive_seed


def check_adapters(config: TrainConfig) -> None:
    """Try the adapters on the model's layers without weights.

    Raises:
        ConfigError: If nothing trains, a target or pattern matches no layer, diffusers could not
            load the targets, a layer has too few ranks, or the file of ``lora.init_from`` cannot be
            read or is another adapter.
        ModelError: If the model's folder is not whole.
    """
    names = layout_of(config.model.family).trainable
    methods = {config.lora.part(part).method for part in names}
    require(
        methods != {"frozen"} or config.lora.new_word.name is not None,
        "lora.unet.method",
        config.lora.unet.method,
        f"leaves no part of a {config.model.family} model to train; its parts: {', '.join(names)}",
    )
    parts = {part: empty_part(part, model_source(config.model)) for part in names}
    start = start_file(config, parts)
    specs = lora_specs(config.lora, config.model.family)
    asked = [_asked(part, spec, parts[part]) for part, spec in specs.items()]
    if start is not None:
        require_same(config, asked, start)


def _asked(part: str, spec: LoraSpec, module: nn.Module) -> Asked:
    """Put an adapter on a bare part, or say why that cannot be."""
    modules = [name for name, _ in module.named_modules()]
    try:
        layers = adapted_layers(add_lora(module, spec, seed=0))
    except LoraError as error:
        raise ConfigError(f"lora.{part}.{error}") from error
    require(  # by those its convert_state_dict_to_peft knows what kind of names the others have
        part == "unet" or any(".self_attn." in layer for layer in layers),
        f"lora.{part}.targets",
        list(spec.targets),
        "diffusers loads no LoRA of a text encoder without attention; add a layer, such as q_proj",
    )
    return Asked(part, spec, modules, layers)


def trains_text(lora: LoraConfig, family: str) -> bool:
    """Whether a text encoder of the model trains, or learns a word."""
    encoders = [part for part in layout_of(family).trainable if part != "unet"]
    methods = {lora.part(part).method for part in encoders}
    return bool(methods - {"frozen"}) or lora.new_word.name is not None


def trains_base(lora: LoraConfig, family: str) -> bool:
    """Whether weights of the base itself train."""
    return any(lora.part(part).method == "full" for part in layout_of(family).trainable)


def lora_specs(config: LoraConfig, family: str) -> dict[str, LoraSpec]:
    """The adapter of each part that gets one."""
    specs = {}
    for part in layout_of(family).trainable:
        own = config.part(part)
        if own.method == "lora":
            specs[part] = LoraSpec(
                r=own.r or config.r,
                alpha=own.alpha or config.alpha,
                dropout=config.dropout,
                targets=tuple(own.targets),
                init=config.init,
                use_dora=config.use_dora and part == "unet",
                use_rslora=config.use_rslora,
                rank_pattern=own.rank_pattern,
                alpha_pattern=own.alpha_pattern,
                rank_dropout=config.rank_dropout,
            )
    return specs


def add_adapters(family: Family, specs: Mapping[str, LoraSpec], seed: int) -> None:
    """Put the adapters on the model's parts, in place."""
    for part, spec in specs.items():
        add_lora(family.parts[part], spec, derive_seed(seed, f"lora/{part}"))
