"""Writers of LoRA files in each layout, for adapters on a model and for LoRAs without one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from torch import Tensor, nn

from sdlora.adapters.file_keys import clip_name, to_diffusers, to_kohya
from sdlora.adapters.folding import folded
from sdlora.adapters.layer_paths import CLIP_INSIDE
from sdlora.adapters.lora import lora_config, lora_parameters, lora_state_dict
from sdlora.adapters.lora_file import LoraFile, renamed
from sdlora.adapters.lora_places import PEFT_CONFIG, PEFT_FILE
from sdlora.adapters.peft_config import DIFFUSERS_CONFIG
from sdlora.adapters.spec import LoraError, LoraSpec
from sdlora.adapters.trained_updates import has_updates, update_tensors, updates_of
from sdlora.adapters.weights import write_weights
from sdlora.adapters.written_header import hashes, lycoris_network, network
from sdlora.models.description import PartNames
from sdlora.runtime.files import write_bytes

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
"""Fields of peft's config that diffusers needs; a field unknown to another peft version would
prevent loading."""


def adapted_parts(parts: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The parts of a model that have an adapter.

    Raises:
        LoraError: If none does.
    """
    found = {part: module for part, module in parts.items() if lora_parameters(module)}
    if not found:
        raise LoraError(f"no adapter on any of {', '.join(parts) or 'no parts'}: nothing to write")
    return found


def adapters_of(parts: Mapping[str, nn.Module], metadata: Mapping[str, str]) -> LoraFile:
    """The adapters of a model as a ``LoraFile``.

    Args:
        parts: Parts of the model by name; those without an adapter are left out.
        metadata: Text for the header.

    Raises:
        LoraError: If there is no adapter, or none that a file can hold.
    """
    adapted = adapted_parts(parts)
    modules = {part: module for part, module in adapted.items() if not has_updates(module)}
    return LoraFile(
        states={
            part: {_nameless(key): value for key, value in lora_state_dict(module).items()}
            for part, module in modules.items()
        },
        specs={
            part: renamed(_spec(lora_config(module)), _nameless) for part, module in modules.items()
        },
        metadata=dict(metadata),
        layout="diffusers",
        updates={p: updates_of(module) for p, module in adapted.items() if p not in modules},
    )


def write_diffusers(
    path: Path,
    *,
    parts: Mapping[str, nn.Module],
    names: Mapping[str, PartNames],
    metadata: Mapping[str, str],
) -> Path:
    """Write the layout that ``pipeline.load_lora_weights`` reads, whole or not at all.

    Args:
        path: The ``.safetensors`` file.
        parts: Parts of the model by name; those without an adapter are left out.
        names: Names of its family's parts in files.
        metadata: Text for the header; the adapters' configs are added, without which diffusers
            takes alpha for the rank.

    Returns:
        ``path``.

    Raises:
        LoraError: If there is no adapter, it holds NaN or infinity, a text encoder's is a DoRA, or
            one is on a part that has no name in files.
    """
    return write_diffusers_file(path, adapters_of(parts, metadata), names)


def write_kohya(
    path: Path,
    *,
    parts: Mapping[str, nn.Module],
    names: Mapping[str, PartNames],
    metadata: Mapping[str, str],
) -> Path:
    """Write the layout that ComfyUI and A1111 read; arguments and errors as ``write_diffusers``.

    ``metadata`` names the base (``ss_base_model_version``, ``modelspec.architecture``).
    """
    return write_kohya_file(path, adapters_of(parts, metadata), names)


def write_peft(folder: Path, module: nn.Module, dtype: torch.dtype = torch.float32) -> list[Path]:
    """Write the folder that ``PeftModel.from_pretrained`` reads, for one part of a model.

    Args:
        folder: For the part alone.
        module: The part.
        dtype: Of the tensors.

    Raises:
        LoraError: If the part has no adapter, or it holds NaN or infinity.
    """
    state = {key: value.to(dtype) for key, value in lora_state_dict(module).items()}
    config = lora_config(module)
    is_lora = isinstance(config, LoraConfig)
    fields = _fields(_spec(config)) if is_lora else _json_fields(config)
    return _write_peft(folder, state, fields, {})


def write_diffusers_file(path: Path, lora: LoraFile, names: Mapping[str, PartNames]) -> Path:
    """As :func:`write_diffusers`, for a LoRA without a model."""
    _refuse_what_no_file_holds(lora, names)
    lora = folded(lora)
    tensors = to_diffusers(lora.states, names)
    tensors |= update_tensors(lora.updates, names, kohya=False)
    config = {DIFFUSERS_CONFIG: _diffusers_config(lora)} if lora.specs else {}
    write_weights(path, tensors, {**lora.metadata, **config})
    return path


def write_kohya_file(path: Path, lora: LoraFile, names: Mapping[str, PartNames]) -> Path:
    """As :func:`write_kohya`, for a LoRA without a model."""
    _refuse_what_no_file_holds(lora, names)
    lora = folded(lora)
    layers = {part: lora.layers(part) for part in lora.states}
    alphas = {
        part: {layer: tensors["alpha"].item() for layer, tensors in found.items()}
        for part, found in layers.items()
    }
    tensors = to_kohya(lora.states, alphas, names)
    tensors |= update_tensors(lora.updates, names, kohya=True)
    is_one = any(not names[part].kohya for part in layers)  # diffusers reads this file as well
    header = {
        **({DIFFUSERS_CONFIG: _diffusers_config(lora)} if is_one else {}),
        **(network(lora, alphas) if layers else lycoris_network(lora)),
        "ss_output_name": path.stem,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": path.stem,
        **lora.metadata,
    }
    write_weights(path, tensors, {**header, **hashes(tensors, header)})
    return path


def write_peft_folders(folder: Path, lora: LoraFile, names: Mapping[str, PartNames]) -> list[Path]:
    """As :func:`write_peft` for each part of a LoRA without a model, in a folder by its name."""
    files = []
    for part, state in lora.states.items():
        rename = clip_name if names[part].is_nested else str
        named = renamed(lora.specs[part], rename)
        files += _write_peft(
            folder / part, {rename(k): v for k, v in state.items()}, _fields(named), lora.metadata
        )
    return files


def _refuse_what_no_file_holds(lora: LoraFile, names: Mapping[str, PartNames]) -> None:
    """Refuse parts without a name in files, and text encoder DoRAs, which are read in part only."""
    for part in lora.parts:
        if part not in names:
            raise LoraError(f"{part}: files hold adapters of {', '.join(names)} only; freeze it")
    for part, spec in lora.specs.items():
        if names[part].is_clip and spec.use_dora:
            raise LoraError(
                f"{part}: a DoRA, whose magnitudes diffusers does not load; train it without DoRA"
            )


def _write_peft(
    folder: Path, state: Mapping[str, Tensor], own: Mapping[str, Any], metadata: Mapping[str, str]
) -> list[Path]:
    fields = {**own, "inference_mode": True}
    fields["base_model_name_or_path"] = None  # a path of this machine says nothing on another
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    tensors = {f"base_model.model.{key}": value for key, value in state.items()}
    write_bytes(folder / PEFT_CONFIG, text.encode("utf-8"))
    write_weights(folder / PEFT_FILE, tensors, metadata, text)
    return [folder / PEFT_CONFIG, folder / PEFT_FILE]


def _nameless(key: str) -> str:
    return key.removeprefix(CLIP_INSIDE)


def _spec(config: PeftConfig) -> LoraSpec:
    """The spec of a LoRA from its peft config."""
    assert isinstance(config, LoraConfig)
    assert isinstance(config.target_modules, set | list), "a spec lists its targets"
    return LoraSpec(
        r=config.r,
        alpha=float(config.lora_alpha),
        dropout=config.lora_dropout,
        targets=tuple(sorted(config.target_modules)),
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        rank_pattern=config.rank_pattern or {},
        alpha_pattern=config.alpha_pattern or {},
    )


def _fields(spec: LoraSpec) -> dict[str, Any]:
    """An adapter's peft config as JSON values: sets as sorted lists."""
    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # peft divides it, so a float is right
        lora_dropout=spec.dropout,
        target_modules=list(spec.targets),
        use_dora=spec.use_dora,
        use_rslora=spec.use_rslora,
        rank_pattern=dict(spec.rank_pattern),
        alpha_pattern=dict(spec.alpha_pattern),
    )
    return _json_fields(config)


def _json_fields(config: PeftConfig) -> dict[str, Any]:
    fields = config.to_dict()
    return {k: sorted(v) if isinstance(v, set) else v for k, v in fields.items()}


def _diffusers_config(lora: LoraFile) -> str:
    """The adapters' configs as diffusers reads them in a header."""
    config: dict[str, Any] = {}
    for part, spec in lora.specs.items():
        fields = _fields(spec)
        config |= {f"{part}.{key}": fields[key] for key in CONFIG_FIELDS}
    return json.dumps(config, sort_keys=True)
