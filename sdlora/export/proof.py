"""Proof of an export: files loaded back by their users' loaders must give the trained model."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft import PeftModel
from torch import Tensor, nn

from sdlora.adapters.file_writing import adapted_parts
from sdlora.adapters.formats import apply_lora, read_lora, remove_lora
from sdlora.adapters.lora import lora_parameters
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.lora_places import DIFFUSERS_FILE, PLAIN
from sdlora.adapters.tuners import ADAPTER
from sdlora.export.float32_layers import exact, without_weights
from sdlora.export.same_adapters import adapter_differences, adapter_in
from sdlora.models.families import families, part_names

TOLERANCE = 1e-4
"""Largest difference of outputs, relative to the largest output (at least 1). Both sides are the
same float32 operations on the same numbers; this leaves room for a GPU that picks other kernels."""


class ExportError(ValueError):
    """Files that do not reproduce the model; the message gives file and difference."""


def prove_export(
    folder: Path,
    fresh_pipeline: Callable[[], DiffusionPipeline],
    parts: Mapping[str, nn.Module],
    dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """Load an export back by its users' loaders, and compare with the trained model.

    Outputs of adapted parts are compared on fixed inputs in float32 (exact for weights kept in 16
    bits), so that rounding hides nothing. One copy of the base serves all layouts, and a layer has
    float32 weights only while it computes. Adapter weights and scales are compared as well: a layer
    that hardly trained has no effect that an output would show. The kohya file is read by diffusers
    or, where it cannot (DoRA, alphas that differ by layer, text encoders without ``out_proj``,
    other types than LoRA), by this project's own reader. diffusers' file of such a type is a plain
    LoRA, which its writer proves.

    Args:
        folder: As ``export_lora`` wrote it.
        fresh_pipeline: Loads the base model, in the dtype of training, without an adapter; of the
            others of its parts the weights are not needed.
        parts: The trained parts, by their names as attributes of the pipeline.
        dtype: Of the files.

    Returns:
        Largest absolute difference by ``layout/part`` of adapted parts: layouts ``diffusers``,
        ``kohya``, ``peft``.

    Raises:
        ExportError: If a difference is larger than ``TOLERANCE``, or an adapter's layers, weights
            or scales are not the same.
        LoraError: If no part carries an adapter.
    """
    return prove_layouts(folder, fresh_pipeline(), expectation(parts), dtype)


def prove_layouts(
    folder: Path, pipeline: Any, expected: "Expectation", dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """:func:`prove_export` on a base model that is there already, and has no adapter."""
    paths = {"diffusers": folder / DIFFUSERS_FILE, "kohya": _kohya_file(folder), "peft": folder}
    if any(adapter.updates for adapter in expected.adapters.values()):
        del paths["diffusers"]
    differences: dict[str, float] = {}
    for layout, path in paths.items():
        differences |= prove_file(path, layout, pipeline, expected, dtype)
    return differences


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a file must give when it is loaded.

    Attributes:
        adapters: The adapter of each part; empty for one without.
        outputs: :func:`outputs` of the parts with an adapter.
    """

    adapters: Mapping[str, LoraFile]
    outputs: Mapping[str, Tensor]


def expectation(parts: Mapping[str, nn.Module]) -> Expectation:
    """What a file of these parts' adapters must give.

    Raises:
        LoraError: If no part carries an adapter.
    """
    adapted = adapted_parts(parts)  # the others are as they were, and may be large
    return Expectation({part: adapter_in(each) for part, each in parts.items()}, outputs(adapted))


def prove_file(
    path: Path,
    layout: str,
    pipeline: Any,
    expected: Expectation,
    dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """:func:`prove_export` for one file (peft: folder) of one layout.

    Args:
        path: The file or folder.
        layout: ``diffusers``, ``kohya`` or ``peft``, which decides the loader.
        pipeline: The base model, which has no adapter before and after.
        expected: What it must give.
        dtype: Of the file.
    """
    fresh: dict[str, nn.Module] = {part: getattr(pipeline, part) for part in expected.adapters}
    try:
        with ExitStack() as stack:
            for part, adapter in expected.adapters.items():
                if adapter.updates and layout == "kohya":
                    fresh[part].float()  # it changes the weights themselves; 16 bits would round it
                elif part in expected.outputs:
                    stack.enter_context(without_weights(fresh[part]))
            LOADERS[layout](path, pipeline, fresh)
        for part, adapter in expected.adapters.items():
            what = f"{path}: {layout}/{part}"
            _require_same_adapter(what, adapter, fresh[part], layout, dtype)
        found = outputs({part: fresh[part] for part in expected.outputs})
    finally:
        remove_lora(*fresh.values())
    return _differences_of(f"{path}: {layout}", layout, expected.outputs, found, dtype)


def _differences_of(
    where: str,
    layout: str,
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> dict[str, float]:
    differences = {}
    for part, wanted in expected.items():
        what = f"{layout}/{part}"
        differences[what] = float((wanted - found[part]).abs().max())
        limit = output_tolerance(dtype) * max(1.0, float(wanted.abs().max()))
        if not differences[what] <= limit:
            raise ExportError(
                f"{where}/{part}: loaded back, its output differs by {differences[what]:.3g} "
                f"(allowed {limit:.3g}); is this the base model of the training?"
            )
    return differences


def _load_diffusers(path: Path, pipeline: Any, parts: Mapping[str, nn.Module]) -> None:
    pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=ADAPTER)


def _kohya_file(folder: Path) -> Path:
    found = [path for path in folder.glob("*.safetensors") if path.name != DIFFUSERS_FILE]
    stems = {path.stem for path in found}
    found = [path for path in found if path.stem.removesuffix(PLAIN) not in stems - {path.stem}]
    if len(found) != 1:
        raise ExportError(f"{folder}: holds {len(found)} kohya files, not one; export again")
    return found[0]


def _load_kohya(path: Path, pipeline: Any, parts: Mapping[str, nn.Module]) -> None:
    lora_file = read_lora(path)
    if _diffusers_reads(lora_file):
        _load_diffusers(path, pipeline, parts)
    else:  # right for ComfyUI and A1111
        apply_lora(parts, lora_file)


def _diffusers_reads(lora_file: LoraFile) -> bool:
    """Whether diffusers reads a kohya file completely.

    It drops DoRA scales and alphas that differ by layer; and it detects the naming of a text
    encoder's layers by ``out_proj``, so that it drops the other layers, or fails, without that one
    (``convert_state_dict_to_peft``).
    """
    names = part_names()
    return not lora_file.updates and not any(
        spec.use_dora
        or spec.alpha_pattern
        or (names[part].is_clip and not any(layer.endswith("out_proj") for layer in spec.targets))
        for part, spec in lora_file.specs.items()
    )


def _load_peft(folder: Path, pipeline: Any, parts: Mapping[str, nn.Module]) -> None:
    for part, module in parts.items():
        if (folder / part).is_dir():
            device = str(next(module.parameters()).device)
            with warnings.catch_warnings():  # peft asks transformers by a name on its way out
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                PeftModel.from_pretrained(module, str(folder / part), torch_device=device)


LOADERS = {"diffusers": _load_diffusers, "kohya": _load_kohya, "peft": _load_peft}
"""Layout -> function that loads its file into a pipeline, or into some parts of it."""


def output_tolerance(dtype: torch.dtype) -> float:
    """``TOLERANCE``, and for rounded files some steps of their type."""
    return TOLERANCE if dtype == torch.float32 else TOLERANCE + 4 * torch.finfo(dtype).eps


def _require_same_adapter(
    what: str, trained: LoraFile, loaded: nn.Module, layout: str, dtype: torch.dtype
) -> None:
    missing = sorted(key for key, weight in lora_parameters(loaded).items() if weight.is_meta)
    wrong = missing or adapter_differences(trained, adapter_in(loaded), layout, dtype)
    if wrong:  # diffusers leaves what it lacks on "meta"
        raise ExportError(
            f"{what}: loaded back, {len(wrong)} adapter entries are not the same, such as "
            f"{wrong[0]}"
        )


@torch.no_grad()
def outputs(parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Outputs of each part on fixed inputs, float32, on the CPU."""
    draws = torch.Generator().manual_seed(0)
    found = {}
    with ExitStack() as stack:
        for module in parts.values():
            stack.enter_context(exact(module))
        for part, module in parts.items():
            output = _embedded if hasattr(module.config, "vocab_size") else _denoiser_output(module)
            found[part] = output(module, draws).cpu()
    return found


def _denoiser_output(module: nn.Module) -> Callable[[Any, torch.Generator], Tensor]:
    """The probe of the family that a denoiser is of; of a UNet the usual one."""
    for each in families().values():
        if each.probe is not None and type(module) is each.parts[each.denoiser]:
            return each.probe
    return _denoised


def _denoised(unet: Any, draws: torch.Generator) -> Tensor:
    shape, device = unet.config, next(unet.parameters()).device
    side = 2 ** (len(shape.block_out_channels) + 1)  # pixels of latents: the least plus some
    latents = torch.randn(2, shape.in_channels, side, side, generator=draws).to(device)
    width = shape.encoder_hid_dim or shape.cross_attention_dim
    context = torch.randn(2, 7, width, generator=draws).to(device)
    added = None
    if shape.addition_embed_type == "text_time":  # SDXL: pooled text, and six sizes
        pooled = shape.projection_class_embeddings_input_dim - 6 * shape.addition_time_embed_dim
        text = torch.randn(2, pooled, generator=draws).to(device)
        sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2, device=device)
        added = {"text_embeds": text, "time_ids": sizes}
    t = torch.tensor([1, 500], device=device)
    return unet(latents, t, context, added_cond_kwargs=added).sample


def _embedded(text_encoder: Any, draws: torch.Generator) -> Tensor:
    words, device = text_encoder.config, next(text_encoder.parameters()).device
    size = (2, words.max_position_embeddings)
    ids = torch.randint(0, words.vocab_size, size, generator=draws).to(device)
    output = text_encoder(ids)
    pooled = getattr(output, "text_embeds", None)  # of an encoder with projection
    found = [output.last_hidden_state] if pooled is None else [output.last_hidden_state, pooled]
    return torch.cat([each.flatten() for each in found])
