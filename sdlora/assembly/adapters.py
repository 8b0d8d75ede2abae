"""Typed config -> adapter specs and adapters, with checks against the model's layers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from sdlora.adapters.layer_names import target_layers
from sdlora.adapters.lora import adapted_layers, add_lora, lora_parameters
from sdlora.adapters.oft import refuse_unfit_blocks, turned_widths
from sdlora.adapters.spec import LoraError, LoraSpec
from sdlora.assembly.base_model import model_source
from sdlora.assembly.init_from import ConfiguredAdapter, require_same, start_file
from sdlora.config.lora import LoraConfig
from sdlora.config.model import ModelConfig
from sdlora.config.rules import ConfigError, require
from sdlora.models.description import FamilyDescription
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.models.loading import empty_part
from sdlora.runtime.randomness import derive_seed


def check_adapters(model: ModelConfig, lora: LoraConfig) -> None:
    """Check the adapters on the model's layers, without weights.

    Raises:
        ConfigError: If a target or pattern matches no layer, diffusers could not load the targets,
            a layer has too few ranks, or the file of ``lora.init_from`` cannot be read or is
            another adapter.
        ModelError: If the model's folder is not whole.
    """
    description = description_of(model.family)
    source = model_source(model)
    parts = {part: empty_part(part, source) for part in description.trainable}
    start = start_file(lora.init_from, parts, description.denoiser, source.path)
    specs = lora_specs(lora, model.family)
    _refuse_unfit_blocks(specs, parts)
    configured = [
        _configured(part, spec, parts[part], is_text=part in description.trainable_encoders)
        for part, spec in specs.items()
    ]
    if start is not None:
        require_same(lora.init_from, configured, start)


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """Errors of an adapter name the config key of its part."""
    try:
        yield
    except LoraError as error:
        raise ConfigError(f"lora.{part}.{error}") from error


def _refuse_unfit_blocks(specs: Mapping[str, LoraSpec], parts: Mapping[str, nn.Module]) -> None:
    """Refuse a size of OFT's blocks that some layer of some part does not take: it is one key."""
    widths: dict[str, int] = {}
    for part, spec in specs.items():
        if spec.type == "oft":
            with _naming(part):
                own = turned_widths(parts[part], target_layers(parts[part], spec.targets))
            widths |= {f"{part}.{name}": width for name, width in own.items()}
    if widths:
        try:
            refuse_unfit_blocks(widths, next(iter(specs.values())).oft_block_size)
        except LoraError as error:
            raise ConfigError(f"lora.{error}") from error


def _configured(
    part: str, spec: LoraSpec, module: nn.Module, *, is_text: bool
) -> ConfiguredAdapter:
    """Put an adapter on a part without weights; an error names the config key."""
    modules = [name for name, _ in module.named_modules()]
    with _naming(part):
        layers = adapted_layers(add_lora(module, spec, seed=0))
    require(  # by those its convert_state_dict_to_peft knows what kind of names the others have
        not is_text or any(".self_attn." in layer for layer in layers),
        f"lora.{part}.targets",
        list(spec.targets),
        "diffusers cannot load a LoRA of a text encoder without attention layers; add one, such as "
        "q_proj",
    )
    shapes = {key: tuple(each.shape) for key, each in lora_parameters(module).items()}
    return ConfiguredAdapter(part, spec, modules, layers, shapes)


def trains_text(lora: LoraConfig, family: str) -> bool:
    """Whether a text encoder of the model trains, or learns a new word."""
    methods = lora.methods(description_of(family).trainable_encoders)
    return bool(set(methods.values()) - {"frozen"}) or lora.new_word.name is not None


def trains_base(lora: LoraConfig, family: str) -> bool:
    """Whether weights of the base itself train."""
    return "full" in lora.methods(description_of(family).trainable).values()


def lora_specs(lora: LoraConfig, family: str) -> dict[str, LoraSpec]:
    """The spec of each part with an adapter: the part's own values, else those of all parts.

    A part with a rank of its own keeps the strength alpha / r of the others.
    """
    description = description_of(family)
    parts = {part: lora.part(part) for part in description.trainable}
    of_lora = {
        "dropout": lora.dropout,
        "init": lora.init,
        "use_dora": lora.use_dora,
        "use_rslora": lora.use_rslora,
        "rank_dropout": lora.rank_dropout,
    }
    own_values: dict[str, Any] = of_lora if lora.type == "lora" else {"dropout": 0.0}
    return {
        part: LoraSpec(
            r=own.r or lora.r,
            alpha=own.alpha or lora.alpha * (own.r or lora.r) / lora.r,
            targets=_targets(part, own.targets, description),
            rank_pattern=own.rank_pattern,
            alpha_pattern=own.alpha_pattern,
            type=lora.type,
            decompose_factor=lora.decompose_factor,
            oft_block_size=lora.oft_block_size,
            **own_values,
        )
        for part, own in parts.items()
        if own.method == "lora"
    }


def _targets(part: str, names: Sequence[str], description: FamilyDescription) -> tuple[str, ...]:
    """The targets of a part; names of the family's presets stand for their layers."""
    presets = description.presets if part == description.denoiser else {}
    found = [target for name in names for target in presets.get(name, (name,))]
    return tuple(dict.fromkeys(found))


def add_adapters(family: Family, specs: Mapping[str, LoraSpec], seed: int) -> None:
    """Put the adapters on the model's parts, in place."""
    for part, spec in specs.items():
        add_lora(family.parts[part], spec, derive_seed(seed, f"lora/{part}"))
