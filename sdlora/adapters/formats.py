"""Reading of LoRA files of any layout (diffusers, kohya, peft), and applying them to a model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers.utils.peft_utils import recurse_remove_peft_layers
from torch import Tensor, nn

from sdlora.adapters.file_content import Content
from sdlora.adapters.file_header import read_file_header
from sdlora.adapters.file_keys import clip_name, parse_key
from sdlora.adapters.folding import with_alphas_of
from sdlora.adapters.lora import add_lora, load_lora_state_dict, load_written, lora_parameters
from sdlora.adapters.lora_file import LoraFile, renamed
from sdlora.adapters.lora_places import (
    layout_of,
    peft_folders,
    weight_files,
    weights_file,
)
from sdlora.adapters.peft_config import (
    DIFFUSERS_CONFIG,
    DamagedConfigError,
    config_of_part,
    json_mapping,
)
from sdlora.adapters.peft_folder import read_peft
from sdlora.adapters.spec import LoraError, listing
from sdlora.adapters.strength import set_scale
from sdlora.adapters.weight_updates import apply_updates, fit_updates, remove_updates
from sdlora.adapters.weights import read_weights
from sdlora.models.families import part_names


def read_lora(
    path: Path | str,
    layers_per_block: int = 2,
    must_be_finite: bool = True,
    skip_unknown: bool = False,
) -> LoraFile:
    """Read a LoRA file or folder made by this project or another trainer, in any spelling.

    Args:
        path: A ``.safetensors`` file, an export folder, or a peft folder.
        layers_per_block: Resnets per block of the UNet, for block names of the original Stable
            Diffusion code (``input_blocks_4_1``); 2 in every released Stable Diffusion.
        must_be_finite: Refuse NaN and infinity; ``False`` is for inspection only.
        skip_unknown: Leave out what is of no adapter, by name, instead of refusing the file.

    Returns:
        Weights and spec of each part. Alpha comes from the file; without one it is the rank, as is
        usual.

    Raises:
        LoraError: If it cannot be read, is of a family that is not loaded here, or holds keys that
            are of no adapter.
    """
    path = Path(path)
    folders = peft_folders(path, part_names())
    if folders:
        return read_peft(folders, must_be_finite, skip_unknown)
    path = weights_file(path)
    tensors, metadata = read_weights(path, must_be_finite=must_be_finite)
    layout = layout_of(tensors)
    content = Content(path, tensors, metadata, layout, layers_per_block)
    try:
        return content.lora_file(header_config(path, metadata), skip_unknown)
    except DamagedConfigError as error:
        if layout == "diffusers":
            raise
        lora = content.lora_file({}, skip_unknown)  # such a file says alpha by its tensors
        return replace(lora, left_out=[*lora.left_out, str(error).removeprefix(f"{path}: ")])


def read_metadata(path: Path | str) -> dict[str, str]:
    """The header's strings of a LoRA file or folder; no tensor is read.

    Raises:
        LoraError: If there is no such file, or it is no LoRA.
    """
    files = weight_files(Path(path), part_names())
    return {key: value for file in files for key, value in read_file_header(file).metadata.items()}


def apply_lora(parts: Mapping[str, nn.Module], lora_file: LoraFile, scale: float = 1.0) -> None:
    """Add a LoRA to a model, in place, as adapter ``default``.

    Layers that no plain LoRA changes have the change in their weights until :func:`remove_lora`.

    Args:
        parts: Parts of the model by name, all without an adapter.
        lora_file: A LoRA from ``read_lora``.
        scale: Strength; 1 as trained.

    Raises:
        LoraError: Listing every key that matches no layer and every shape that differs, before the
            model is touched.
    """
    fitted = fit_lora(parts, lora_file)
    for part, updates in fitted.updates.items():
        apply_updates(parts[part], updates, scale)
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
    specs, states, fitted_updates = {}, {}, {}
    problems: list[str] = []
    for part in lora_file.parts:
        if part not in parts:
            problems.append(f"{part}: the model has no such part")
            continue
        module = parts[part]
        rename = clip_name if hasattr(module, "text_model") else str
        found: list[str] = []
        if part in lora_file.specs:
            state = {rename(key): value for key, value in lora_file.states[part].items()}
            states[part], found = _fit(module, state)
            specs[part] = renamed(lora_file.specs[part], rename)
        if part in lora_file.updates:
            own = {rename(layer): each for layer, each in lora_file.updates[part].items()}
            found += fit_updates(module, own)
            fitted_updates[part] = own
        problems += [f"{part}.{line}" for line in found]
    if problems:
        of = f"It is of {lora_file.family.title}. " if lora_file.family.is_certain else ""
        raise LoraError(
            f"the LoRA does not fit this model: {len(problems)} problems{listing(problems)}\n"
            f"{of}It was made for another base model; choose that one."
        )
    return replace(lora_file, states=states, specs=specs, updates=fitted_updates)


def restore_lora(parts: Mapping[str, nn.Module], lora_file: LoraFile) -> None:
    """Load a LoRA into the adapters that it was written from, in place.

    Only the adapters' own shapes count, as a quantised base has none that could be compared.

    Args:
        parts: Parts of the model by name; those of the file have an adapter.
        lora_file: A LoRA from ``read_lora``.

    Raises:
        LoraError: If keys or shapes are not those of the adapters.
    """
    for part, state in with_alphas_of(lora_file, parts).states.items():
        module = parts[part]
        rename = clip_name if hasattr(module, "text_model") else str
        load_written(module, {rename(key): value for key, value in state.items()})


def remove_lora(*modules: nn.Module) -> None:
    """Remove adapters, in place; the inverse of :func:`apply_lora`.

    Args:
        modules: Parts of a model; those without an adapter are unchanged.
    """
    for module in modules:
        remove_updates(module)
        if lora_parameters(module):
            recurse_remove_peft_layers(module)
            del module.peft_config
            module._hf_peft_config_loaded = False  # type: ignore[assignment]  # so do both libraries


def header_config(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Part -> its peft config in a header of diffusers.

    Raises:
        DamagedConfigError: If it cannot be read.
    """
    config = json_mapping(path, metadata.get(DIFFUSERS_CONFIG, "{}"))
    return {part: config_of_part(config, part) for part in part_names()}


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
