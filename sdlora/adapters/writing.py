"""Adapters on a model -> one file of each layout, with the metadata that its readers look for."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import save
from torch import Tensor, nn

from sdlora.adapters.formats import PEFT_CONFIG, PEFT_FILE
from sdlora.adapters.keys import PARTS, to_diffusers, to_kohya
from sdlora.adapters.lora import (
    adapted_layers,
    lora_config,
    lora_parameters,
    lora_state_dict,
)
from sdlora.adapters.spec import LoraError
from sdlora.adapters.weights import DIFFUSERS_CONFIG, write_weights
from sdlora.files import write_bytes

CONFIG_FIELDS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
)
"""What diffusers needs to know of an adapter; a field that another peft version does not know would
stop it from loading."""


def adapted_parts(parts: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Those of a model's parts that carry an adapter, in the order of ``PARTS``.

    Raises:
        LoraError: If none does, if one of them has no place in the files, or if a text encoder's is
            a DoRA.
    """
    found = {part: parts[part] for part in PARTS if part in parts and lora_parameters(parts[part])}
    others = [part for part in parts if part not in PARTS and lora_parameters(parts[part])]
    if others:
        known = ", ".join(PARTS)
        raise LoraError(f"{', '.join(others)}: files hold adapters of {known} only; freeze it")
    if not found:
        raise LoraError(f"no adapter on any of {', '.join(parts) or 'no parts'}: nothing to write")
    for part, module in found.items():
        if part != "unet" and lora_config(module).use_dora:
            raise LoraError(
                f"{part}: a DoRA, whose magnitudes diffusers does not load; train it without DoRA"
            )
    return found


def write_diffusers(
    path: Path, *, parts: Mapping[str, nn.Module], metadata: Mapping[str, str]
) -> Path:
    """Write the layout that ``pipeline.load_lora_weights`` reads, whole or not at all.

    Args:
        path: The ``.safetensors`` file.
        parts: The model's, by name; those without an adapter are left out.
        metadata: Text for the header; the adapters' configs are added, without which diffusers
            takes alpha for the rank.

    Returns:
        ``path``.

    Raises:
        LoraError: If there is no adapter, it holds NaN or infinity, or a text encoder's is a DoRA.
    """
    modules = adapted_parts(parts)
    tensors = to_diffusers({part: lora_state_dict(module) for part, module in modules.items()})
    config: dict[str, Any] = {}
    for part, module in modules.items():
        fields = _plain(lora_config(module))
        config |= {f"{part}.{key}": fields[key] for key in CONFIG_FIELDS}
    header = {**metadata, DIFFUSERS_CONFIG: json.dumps(config, sort_keys=True)}
    write_weights(path, tensors, header)
    return path


def write_kohya(path: Path, *, parts: Mapping[str, nn.Module], metadata: Mapping[str, str]) -> Path:
    """Write the layout that ComfyUI and A1111 read; arguments and errors as ``write_diffusers``.

    Which base it belongs to (``ss_base_model_version``, ``modelspec.architecture``) is for
    ``metadata`` to say. A model with a second text encoder, adapted or not, gets SDXL's names.
    """
    modules = adapted_parts(parts)
    states = {part: lora_state_dict(module) for part, module in modules.items()}
    layers = {part: adapted_layers(module) for part, module in modules.items()}
    alphas = {
        part: {layer: alpha for layer, (_, alpha) in found.items()}
        for part, found in layers.items()
    }
    tensors = to_kohya(states, alphas, is_sdxl="text_encoder_2" in parts)
    ranks = [found for part in layers.values() for found in part.values()]
    first = next(iter(modules))
    config = lora_config(modules[first])
    header = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.r),
        "ss_network_alpha": str(next(iter(layers[first].values()))[1]),
        "ss_network_args": json.dumps(
            {
                "mixed_ranks": len(set(ranks)) > 1,
                "use_dora": config.use_dora,
                "use_rslora": config.use_rslora,
            }
        ),
        "ss_network_dropout": str(config.lora_dropout),
        "ss_output_name": path.stem,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": path.stem,
        **metadata,
    }
    write_weights(path, tensors, {**header, **_hashes(tensors, header)})
    return path


def write_peft(folder: Path, module: nn.Module) -> list[Path]:
    """Write the folder that ``PeftModel.from_pretrained`` reads, for one part of a model.

    Raises:
        LoraError: If the part has no adapter, or it holds NaN or infinity.
    """
    fields = {**_plain(lora_config(module)), "inference_mode": True}
    fields["base_model_name_or_path"] = None  # a path of this machine says nothing on another
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    state = lora_state_dict(module)
    tensors = {f"base_model.model.{key}": value for key, value in state.items()}
    write_bytes(folder / PEFT_CONFIG, text.encode("utf-8"))
    write_weights(folder / PEFT_FILE, tensors, {}, text)
    return [folder / PEFT_CONFIG, folder / PEFT_FILE]


def _plain(config: LoraConfig) -> dict[str, Any]:
    """The config as JSON holds it: sets as sorted lists."""
    fields = config.to_dict()
    return {k: sorted(v) if isinstance(v, set) else v for k, v in fields.items()}


def _hashes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, str]:
    """What model managers know a file by; none of them changes with the other metadata.

    Source:
        kohya-ss/sd-scripts, library/train_util.py, ``precalculate_safetensors_hashes``; ModelSpec
        1.0.1, ``hash_sha256``.
    """
    data = save(dict(tensors), {k: v for k, v in header.items() if k.startswith("ss_")})
    content = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    legacy = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    return {
        "sshs_model_hash": content,
        "sshs_legacy_hash": legacy,
        "modelspec.hash_sha256": f"0x{content}",
    }
