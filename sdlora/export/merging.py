"""Merging of LoRAs into their base: a pipeline folder or a single file, proved by loading back."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdlora.adapters.file_keys import clip_name
from sdlora.adapters.file_writing import write_diffusers_file
from sdlora.adapters.formats import apply_lora, fit_lora, remove_lora
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.spec import LoraError
from sdlora.adapters.strength import merge, set_scale
from sdlora.adapters.weight_updates import keep_updates, scale_updates
from sdlora.adapters.weights import check_finite
from sdlora.export.layouts import save_pipeline
from sdlora.export.lora_files import FreshBase, family_of, header
from sdlora.export.original_layout import original_tensors
from sdlora.export.proof import TOLERANCE, ExportError, outputs
from sdlora.models.description import FamilyDescription
from sdlora.models.family import Family
from sdlora.models.noise_markers import written_markers
from sdlora.runtime.files import atomic_path, whole_folder

SINGLE_FILE = ".safetensors"


def merged_pipeline(
    fresh_base: FreshBase, loras: Sequence[LoraFile], scales: Sequence[float]
) -> tuple[Any, float]:
    """A base with LoRAs in its float32 weights, proved by diffusers' own loader.

    For the proof diffusers first loads the same LoRAs as adapters beside it, at these strengths. A
    merged weight is rounded once, so outputs differ in the last bits; ``TOLERANCE``, relative to
    the largest output, allows for that.

    Args:
        fresh_base: Loads the base.
        loras: LoRAs to merge, one after the other.
        scales: Strength of each; 1 as trained.

    Returns:
        The pipeline, and the largest difference of an output.

    Raises:
        LoraError: If a LoRA does not fit the base, or one of several is a DoRA.
        ExportError: If an output differs.
    """
    if len(loras) > 1 and any(_needs_base(lora) for lora in loras):
        raise LoraError(
            "an update that is a function of the base's weights (DoRA, IA3, GLoRA, OFT): merge it "
            "alone first"
        )
    parts = sorted({part for lora in loras for part in lora.parts})
    family = fresh_base(parts, whole=True)
    for lora in loras:
        fit_lora(family.parts, lora)
    # updates that are no adapters change weights themselves, so that these need a copy of their own
    beside = fresh_base(parts) if any(lora.updates for lora in loras) else family
    wanted = _outputs_beside(beside, loras, scales, parts)
    del beside
    for lora, scale in zip(loras, scales, strict=True):
        apply_lora(family.parts, lora)
        adapted = [family.parts[part] for part in lora.parts]
        for module in adapted:
            set_scale(module, scale)
            merge(module)
            scale_updates(module, scale)
            keep_updates(module)
        remove_lora(*adapted)
    found = outputs({part: family.parts[part] for part in parts})
    return family.pipeline(), max(_proved(part, found[part], wanted[part]) for part in wanted)


def _proved(part: str, merged: Tensor, beside: Tensor) -> float:
    """The largest difference of two outputs of a part, which must be small."""
    difference = float((merged - beside).abs().max())
    limit = TOLERANCE * max(1.0, float(beside.abs().max()))
    if not difference <= limit:
        raise ExportError(
            f"{part}: merged, its output differs by {difference:.3g} from the LoRA beside the "
            f"base (allowed {limit:.3g}); nothing was written"
        )
    return difference


def check_merged_out(out: Path, description: FamilyDescription) -> None:
    """Refuse a single file for a family that has none.

    Raises:
        LoraError: Naming the remedy.
    """
    if out.suffix == SINGLE_FILE and description.from_single_file is None:
        raise LoraError(
            f"out={out}: {description.kind} has no layout of one file; give a folder, such as "
            f"--out {out.with_suffix('')}"
        )


def write_merged(out: Path, pipeline: Any, dtype: torch.dtype, config: Path) -> Path:
    """Write a pipeline as a diffusers folder, or as one file if ``out`` ends with .safetensors.

    Loaded back by diffusers (``from_pretrained``, ``from_single_file``), every weight of every part
    must be the same to the bit.

    Args:
        out: The folder or file.
        pipeline: Without an adapter.
        dtype: Dtype of the weights in the file.
        config: The base's folder, which gives ``from_single_file`` the shapes.

    Raises:
        LoraError: If a weight is NaN or infinite, such as by an overflow of float16.
        ExportError: If a weight loaded back differs; no file is left then.
    """
    is_file = out.suffix == SINGLE_FILE
    parts: dict[str, nn.Module] = {
        part: nn.Module.to(module, dtype)
        for part, module in pipeline.components.items()
        if isinstance(module, nn.Module)
    }
    for part, module in parts.items():
        check_finite(out / part, dict(module.named_parameters()))
    with atomic_path(out) if is_file else whole_folder(out) as temporary:
        if is_file:
            marks, header = written_markers(pipeline.scheduler.config)
            tensors = {k: v.contiguous() for k, v in original_tensors(pipeline).items()}
            titles = {"format": "pt", "modelspec.title": out.stem}
            save_file(tensors | marks, temporary, titles | header)
        else:
            save_pipeline(temporary, pipeline)
        for part, loaded in _loaded_back(temporary, pipeline, parts, dtype, config):
            _require_equal(f"{out}: {part}", parts[part], loaded)
            del loaded
    return out


def _loaded_back(
    path: Path, pipeline: Any, parts: Mapping[str, nn.Module], dtype: torch.dtype, config: Path
) -> Iterator[tuple[str, nn.Module]]:
    """The parts of what was written: of a folder one at a time, as a second model may not fit."""
    if path.is_file():
        load = type(pipeline).from_single_file
        again = load(path, config=str(config), dtype=dtype, local_files_only=True)
        yield from ((part, getattr(again, part)) for part in parts)
        return
    for part, module in parts.items():
        argument = {"dtype" if part.startswith("text_encoder") else "torch_dtype": dtype}
        kind: Any = type(module)
        yield part, kind.from_pretrained(path / part, local_files_only=True, **argument)


def _outputs_beside(
    family: Family, loras: Sequence[LoraFile], scales: Sequence[float], parts: Sequence[str]
) -> dict[str, Tensor]:
    """Outputs of a base with the LoRAs as diffusers loads them, in the layout that holds all.

    Updates of single layers, which diffusers does not load, are added to the weights here. The base
    is bare again afterwards, but for those.
    """
    for lora, scale in zip(loras, scales, strict=True):
        for part, updates in lora.updates.items():
            _add_in_float64(family.parts[part], updates, scale)
    plain = [(lora, scale) for lora, scale in zip(loras, scales, strict=True) if lora.states]
    pipeline = family.pipeline()
    names = [f"lora_{number}" for number in range(len(plain))]
    with tempfile.TemporaryDirectory() as folder:
        for name, (lora, _) in zip(names, plain, strict=True):
            file = f"{name}.safetensors"
            bare = replace(lora, metadata=header(lora.metadata), updates={})
            write_diffusers_file(Path(folder) / file, bare, family_of(lora).trainable)
            with warnings.catch_warnings():  # several adapters are what is wanted here
                warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
                pipeline.load_lora_weights(folder, weight_name=file, adapter_name=name)
    if plain:
        pipeline.set_adapters(names, [scale for _, scale in plain])
    found = outputs({part: family.parts[part] for part in parts})
    if plain:
        pipeline.unload_lora_weights()
    return found


def _needs_base(lora: LoraFile) -> bool:
    """Whether a LoRA changes weights by a function of them."""
    return any(spec.use_dora for spec in lora.specs.values()) or any(
        update.needs_base for updates in lora.updates.values() for update in updates.values()
    )


def _add_in_float64(module: nn.Module, updates: Mapping[str, LayerUpdate], scale: float) -> None:
    """Add updates to the weights layer by layer, as sums in float64."""
    modules: dict[str, Any] = dict(module.named_modules())
    rename = clip_name if hasattr(module, "text_model") else str
    for layer, update in updates.items():
        target = modules[rename(layer)]
        change = update.change(target.weight)
        for own, added in ((target.weight, change.weight), (target.bias, change.bias)):
            if added is not None:
                own.data = (own.data.double() + scale * added.double()).to(own.dtype)


def _require_equal(what: str, written: nn.Module, loaded: nn.Module) -> None:
    before, after = written.state_dict(), loaded.state_dict()
    wrong = sorted(before.keys() ^ after.keys())
    wrong += [key for key in before.keys() & after.keys() if not _same(before[key], after[key])]
    if wrong:
        raise ExportError(
            f"{what}: loaded back, {len(wrong)} weights are not the same, such as {wrong[0]}; "
            "nothing was written"
        )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
