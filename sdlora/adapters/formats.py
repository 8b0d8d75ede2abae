"""Reading of LoRA files of any layout (diffusers, kohya, peft), and applying them to a model."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers.utils.peft_utils import recurse_remove_peft_layers
from torch import Tensor, nn

from sdlora.adapters.file_keys import (
    Layers,
    Layout,
    clip_name,
    kohya_prefixes,
    parse_key,
    sort_by_layer,
)
from sdlora.adapters.lora import (
    add_lora,
    load_lora_state_dict,
    load_written,
    lora_parameters,
    set_scale,
)
from sdlora.adapters.lora_file import LoraFile, from_layers, renamed
from sdlora.adapters.spec import LoraError, listing
from sdlora.adapters.weights import DIFFUSERS_CONFIG, read_header, read_weights
from sdlora.models.families import part_names

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"


def read_lora(path: Path | str, layers_per_block: int = 2, must_be_finite: bool = True) -> LoraFile:
    """Read a LoRA file or folder made by this project or another trainer.

    Args:
        path: A ``.safetensors`` file, an export folder, or a peft folder.
        layers_per_block: Resnets per block of the UNet, for block names of the original Stable
            Diffusion code (``input_blocks_4_1``); 2 in every released Stable Diffusion.
        must_be_finite: Refuse NaN and infinity; ``False`` is for inspection only.

    Returns:
        Weights and spec of each part. Alpha comes from the file; without one it is the rank, as is
        usual.

    Raises:
        LoraError: If it cannot be read, or holds keys that are no LoRA for these parts.
    """
    path = Path(path)
    folders = _peft_folders(path)
    if folders:
        return _read_peft(folders, must_be_finite)
    path = _weights_file(path)
    tensors, metadata = read_weights(path, must_be_finite=must_be_finite)
    is_kohya = any(key.startswith(kohya_prefixes(part_names())) for key in tensors)
    is_peft = any(key.startswith("base_model.") for key in tensors)
    layout: Layout = "kohya" if is_kohya else "peft" if is_peft else "diffusers"
    parts = sort_by_layer(path, tensors, layout, layers_per_block)
    config = _json(path, metadata.get(DIFFUSERS_CONFIG, "{}"))
    configs = {
        part: {k.removeprefix(f"{part}."): v for k, v in config.items() if k.startswith(f"{part}.")}
        for part in parts
    }
    return from_layers(path, parts, metadata, layout, configs)


def read_metadata(path: Path | str) -> dict[str, str]:
    """The header's strings of a LoRA file or folder; no tensor is read.

    Raises:
        LoraError: If there is no such file, or it is no LoRA.
    """
    path = Path(path)
    folders = _peft_folders(path)
    files = [folder / PEFT_FILE for folder in folders] or [_weights_file(path)]
    return {key: value for file in files for key, value in read_header(file).items()}


def apply_lora(parts: Mapping[str, nn.Module], lora_file: LoraFile, scale: float = 1.0) -> None:
    """Add a LoRA to a model, in place, as adapter ``default``.

    The model of a file is not guessed from its names: it fits this model or it does not.

    Args:
        parts: Parts of the model by name, all without an adapter.
        lora_file: A LoRA from ``read_lora``.
        scale: Strength; 1 as trained.

    Raises:
        LoraError: Listing every key that matches no layer and every shape that differs, before the
            model is touched.
    """
    fitted = fit_lora(parts, lora_file)
    for part, spec in fitted.specs.items():
        add_lora(parts[part], spec, seed=0)
        load_lora_state_dict(parts[part], fitted.states[part])
        set_scale(parts[part], scale)


def fit_lora(parts: Mapping[str, nn.Module], lora_file: LoraFile) -> LoraFile:
    """A LoRA with the names and shapes of a model's layers.

    Args:
        parts: Parts of the model by name, with or without an adapter; only shapes count, so they
            may be on the meta device.
        lora_file: A LoRA from ``read_lora``.

    Raises:
        LoraError: Listing every key that matches no layer and every shape that differs.
    """
    specs, states, problems = {}, {}, []
    for part, spec in lora_file.specs.items():
        if part not in parts:
            problems.append(f"{part}: the model has no such part")
            continue
        module = parts[part]
        rename = clip_name if hasattr(module, "text_model") else str
        state = {rename(key): value for key, value in lora_file.states[part].items()}
        states[part], found = _fit(module, state)
        problems += [f"{part}.{line}" for line in found]
        specs[part] = renamed(spec, rename)
    if problems:
        raise LoraError(
            f"the LoRA does not fit this model: {len(problems)} problems{listing(problems)}\n"
            "It was made for another base model; choose that one."
        )
    return replace(lora_file, states=states, specs=specs)


def restore_lora(parts: Mapping[str, nn.Module], lora_file: LoraFile) -> None:
    """Load a LoRA into the adapters that it was written from, in place.

    Only the adapters' own shapes count, as a quantised base has none that could be compared.

    Args:
        parts: Parts of the model by name; those of the file have an adapter.
        lora_file: A LoRA from ``read_lora``.

    Raises:
        LoraError: If keys or shapes are not those of the adapters.
    """
    for part, state in lora_file.states.items():
        module = parts[part]
        rename = clip_name if hasattr(module, "text_model") else str
        load_written(module, {rename(key): value for key, value in state.items()})


def remove_lora(*modules: nn.Module) -> None:
    """Remove adapters, in place; the inverse of :func:`apply_lora`.

    Args:
        modules: Parts of a model; those without an adapter are unchanged.
    """
    for module in modules:
        if lora_parameters(module):
            recurse_remove_peft_layers(module)
            del module.peft_config
            module._hf_peft_config_loaded = False  # type: ignore[assignment]  # so do both libraries


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / DIFFUSERS_FILE).is_file():
        return path / DIFFUSERS_FILE
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise LoraError(f"{path}: holds no {DIFFUSERS_FILE}; name one file of it (found: {names})")
    return found[0]


def _peft_folders(path: Path) -> list[Path]:
    if path.name == PEFT_FILE:
        path = path.parent
    if (path / PEFT_CONFIG).is_file():
        return [path]
    if not path.is_dir() or list(path.glob("*.safetensors")):
        return []
    return [path / part for part in part_names() if (path / part / PEFT_CONFIG).is_file()]


def _read_peft(folders: list[Path], must_be_finite: bool) -> LoraFile:
    names = part_names()
    parts: dict[str, Layers] = {part: {} for part in names}
    configs: dict[str, dict[str, Any]] = {}
    metadata: dict[str, str] = {}
    for folder in folders:
        text = (folder / PEFT_CONFIG).read_text("utf-8")
        config = _json(folder / PEFT_CONFIG, text)
        if config.get("peft_type", "LORA") != "LORA":
            raise LoraError(f"{folder}: a {config['peft_type']} adapter; only LORA is supported")
        tensors, found = read_weights(folder / PEFT_FILE, text, must_be_finite)
        metadata |= found
        own = folder.name if folder.name in names else None
        for part, layers in sort_by_layer(folder, tensors, "peft", 2, own).items():
            parts[part] |= layers
            if layers:
                configs[part] = config
    return from_layers(folders[0], parts, metadata, "peft", configs)


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise LoraError(f"{path}: its adapter config is damaged ({error})") from error
    if not isinstance(value, dict):
        raise LoraError(f"{path}: its adapter config is no mapping")
    return value


def _fit(module: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors in the shapes of the layers, and messages on those that do not fit.

    Files store a 1x1 convolution like a linear layer and the other way round.
    """
    modules = dict(module.named_modules())
    fitted, problems = {}, []
    for key, value in state.items():
        layer, kind = parse_key(key)
        weight = getattr(modules.get(layer), "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim not in (2, 4):
            problems.append(f"{key}: matches no layer of {type(module).__name__}")
            continue
        r = state[f"{layer}.lora_A.weight"].shape[0]
        ones = [1] * (weight.ndim - 2)
        shapes = {
            "A": [r, *weight.shape[1:]],
            "B": [weight.shape[0], r, *ones],
            "magnitude": [1, weight.shape[0], 1, 1] if ones else [weight.shape[0]],
        }
        if _without_ones(value.shape, kind) != _without_ones(shapes[kind], kind):
            problems.append(f"{key}: shape {list(value.shape)}, the layer needs {shapes[kind]}")
            continue
        fitted[key] = value.reshape(shapes[kind])
    return fitted, problems


def _without_ones(shape: Any, kind: str) -> list[int]:
    """A shape without the dimensions of a 1x1 kernel; a DoRA scale must lie along the outputs."""
    shape = list(shape)
    if kind == "magnitude" and shape[:1] == [1] and len(shape) == 4:
        shape = shape[1:]
    keep = 1 if kind == "magnitude" else 2
    while len(shape) > keep and shape[-1] == 1:
        shape.pop()
    return shape
