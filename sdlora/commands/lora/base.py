"""Base models by name of a config, folder, file or Hub id, for commands without a config."""

import json
import re
from argparse import Namespace
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import yaml
from omegaconf import OmegaConf

from sdlora.assembly.base_model import model_source
from sdlora.assembly.family_limits import check_model
from sdlora.config.model import ModelConfig
from sdlora.config.rules import ConfigError
from sdlora.export.lora_files import FreshBase
from sdlora.models.checkpoint_file import read_header
from sdlora.models.checkpoint_kind import family_of_file
from sdlora.models.families import families
from sdlora.models.family import Family
from sdlora.models.loading import check_parts, load_family
from sdlora.models.source import ModelError, ModelSource, resolve, single_file
from sdlora.runtime.places import CONF

MODELS = CONF / "model"

OPTIONS = {
    "family": "--family",
    "config": "--config",
    "vae": "--vae",
    "variant": "--variant",
    "prediction_type": "--prediction-type",
    "zero_terminal_snr": "--zero-terminal-snr",
}
"""Keys of ``model`` -> the options that take their place; ``model.path`` is ``--base``."""


def base_source(options: Namespace, option: str = "--base") -> ModelSource:
    """The source of a base model; reads no weight.

    Args:
        options: A name of ``conf/model`` (``tiny``, ``sd15``, ...), a folder in the diffusers
            layout, a checkpoint in one file, or a Hub id; beside it the values of ``OPTIONS``.
        option: Which option names the model.

    Raises:
        ValueError: If there is no such model, or its family is unknown.
    """
    base: str = getattr(options, option.removeprefix("--"))
    given = {key: value for key in OPTIONS if (value := getattr(options, key)) is not None}
    named = MODELS / f"{base}.yaml"
    with words_of(option):
        if named.is_file():
            values = yaml.safe_load(named.read_text("utf-8"))
            merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), values, given)
            config = OmegaConf.to_object(merged)
        else:
            given.setdefault("family", options.family or _family_of(base, option))
            config = ModelConfig(path=base, **given)
        assert isinstance(config, ModelConfig)
        check_model(config)
        return model_source(config)


def fresh_base(source: ModelSource, option: str = "--base") -> FreshBase:
    """A function that loads the base at each call."""

    is_checked = False

    def load(parts: Collection[str] = (), *, whole: bool = False) -> Family:
        nonlocal is_checked
        of_files = replace(source, frozen_dtype=None, vae_dtype=None, trained=tuple(parts))
        with words_of(option):
            if not is_checked:
                check_parts(source)
                is_checked = True
            if not parts:
                return load_family(source, 0)
            return load_family(of_files, 0, None if whole else parts)

    return load


@contextmanager
def words_of(option: str) -> Iterator[None]:
    """Give messages on a base the names of this command's options, inside the block."""
    try:
        yield
    except (ModelError, ConfigError) as error:
        text = re.sub(r"\bmodel\.path\b", option, str(error))
        for key, name in OPTIONS.items():
            text = re.sub(rf"\bmodel\.{key}\b", name, text)
        raise type(error)(text) from error


def _family_of(base: str, option: str) -> str:
    if (file := single_file(ModelSource(base))) is not None and file.is_file():
        try:
            found = family_of_file(read_header(file))
        except ValueError as error:
            raise ModelError(f"{option}={base}: {error}") from error
        return found.name if found else "sd"  # which its conversion refuses by what it is
    index = resolve(ModelSource(path=base), key=option) / "model_index.json"
    try:
        name = json.loads(index.read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(sorted(path.stem for path in MODELS.glob("*.yaml")))
        raise ConfigError(
            f"{option}={base}: no model_index.json that can be read there "
            f"({type(error).__name__}); give a whole folder in the diffusers layout, a checkpoint "
            f"in one .safetensors file, a Hub id, or one of {known}"
        ) from error
    found_names = {each.pipeline: each.name for each in families().values()}
    if name not in found_names:
        raise ConfigError(
            f"{option}={base}: a {name}, whose family is not known by its name; give --family"
        )
    return found_names[name]
