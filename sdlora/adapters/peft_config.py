"""Configs of peft beside LoRA weights, as JSON: reading, and the alpha of a layer."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlora.adapters.layer_paths import CLIP_INSIDE
from sdlora.adapters.spec import LoraError

DIFFUSERS_CONFIG = "lora_adapter_metadata"
"""Header key of the adapter's config as JSON, as in diffusers."""


class DamagedConfigError(LoraError):
    """An adapter's config that cannot be read."""


def json_mapping(path: Path, text: str) -> dict[str, Any]:
    """A config beside weights.

    Raises:
        DamagedConfigError: If it is damaged.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DamagedConfigError(f"{path}: its adapter config is damaged ({error})") from error
    if not isinstance(value, dict):
        raise DamagedConfigError(f"{path}: its adapter config is no mapping")
    return value


def config_of_part(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The fields of one part in diffusers' config of all parts."""
    start = f"{part}."
    return {
        key.removeprefix(start): value for key, value in config.items() if key.startswith(start)
    }


def alpha_in(config: Mapping[str, Any], layer: str) -> Any:
    """The alpha of a layer in a peft config; ``None``: it has none.

    Patterns match as in peft: an end of the layer's name after a dot.
    """
    default = config.get("lora_alpha", config.get("alpha"))
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern.removeprefix(CLIP_INSIDE)})$", layer):
            return alpha
    return default
