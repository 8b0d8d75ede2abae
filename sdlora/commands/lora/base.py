"""Base models by name of a config, folder or Hub id, for commands without a config."""

import json

import yaml
from omegaconf import OmegaConf

from sdlora.assembly.base_model import model_source
from sdlora.assembly.family_limits import check_model
from sdlora.config.model import ModelConfig
from sdlora.config.rules import ConfigError
from sdlora.export.lora_files import FreshBase
from sdlora.models.families import families
from sdlora.models.loading import load_family
from sdlora.models.source import ModelSource, resolve
from sdlora.runtime.places import CONF

MODELS = CONF / "model"


def base_source(base: str, family: str | None) -> ModelSource:
    """The source of a base model; reads no weight.

    Args:
        base: A name of ``conf/model`` (``tiny``, ``sd15``, ...), a folder in the diffusers layout,
            or a Hub id.
        family: ``model.family``; ``None``: as the config says, or as ``model_index.json`` does.

    Raises:
        ValueError: If there is no such model, or its family is unknown.
    """
    named = MODELS / f"{base}.yaml"
    if named.is_file():
        values = yaml.safe_load(named.read_text("utf-8"))
        merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), values)
        config = OmegaConf.to_object(merged)
        assert isinstance(config, ModelConfig)
    else:
        family = family or _family_of(base)
        config = ModelConfig(family=family, path=base)
    check_model(config)
    return model_source(config)


def fresh_base(source: ModelSource) -> FreshBase:
    """A function that loads the base at each call, in float32."""
    return lambda: load_family(source, 0)


def _family_of(base: str) -> str:
    index = resolve(ModelSource(path=base), key="--base") / "model_index.json"
    try:
        name = json.loads(index.read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(sorted(path.stem for path in MODELS.glob("*.yaml")))
        raise ConfigError(
            f"--base={base}: no model_index.json that can be read there ({type(error).__name__}); "
            f"give a whole folder in the diffusers layout, a Hub id, or one of {known}"
        ) from error
    found = {each.pipeline: each.name for each in families().values()}
    if name not in found:
        raise ConfigError(
            f"--base={base}: a {name}, whose family is not known by its name; give --family"
        )
    return found[name]
