"""A plain LoRA in files beside an adapter that some programs read otherwise or not."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sdlora.adapters.arithmetic import Cut, Energy
from sdlora.adapters.folding import in_dtype
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.lora_places import DIFFUSERS_FILE, PLAIN
from sdlora.adapters.lora_readers import programs_that_read
from sdlora.adapters.plain_form import KEEP, plain_form
from sdlora.adapters.trained_updates import KIND_OF
from sdlora.export.lora_files import OF_THE_WEIGHTS, header, write_lora

CUT = Cut(r=64, keep=KEEP, is_quick=True)
"""What of a layer's update is kept. A DoRA changes the length of every row of a weight, and OFT
turns all of it, so the update has all ranks, few of them large; the bound keeps time and file of a
wide model small."""

CUT_OF_PRODUCTS = Cut(r=128, keep=1 - 1e-6, is_quick=True)
"""The same of LoHa and LoKr, whose factors often give a low rank exactly: nothing but rounding is
left out then."""

NEAR = 0.1
"""Share that may be missing before the end of a run advises to merge the adapter instead."""

MISSING = "sdlora.missing_share"
"""Header entry: Frobenius norm of what the file lacks of the adapter's update, relative to it."""


def twin_name(name: str) -> str:
    """File name of the plain LoRA beside ``NAME.safetensors``."""
    return f"{name}{PLAIN}.safetensors"


def is_read_by_others(adapter: str) -> bool:
    """Whether ComfyUI and A1111 read ``NAME.safetensors`` of a ``lora.type`` as it is."""
    return {"ComfyUI", "A1111"} <= set(programs_that_read(KIND_OF.get(adapter, adapter)))


def file_of_others(folder: Path, name: str, adapter: str) -> Path:
    """The file for ComfyUI and A1111: the plain LoRA, where they do not read the other right.

    Args:
        folder: An export.
        name: Of its files.
        adapter: ``lora.type``; a DoRA is a LoRA with such a file.
    """
    twin = folder / twin_name(name)
    is_native = adapter != "lora" and is_read_by_others(adapter)
    return twin if twin.is_file() and not is_native else folder / f"{name}.safetensors"


def write_plain_twin(
    folder: Path, name: str, lora: LoraFile, parts: Mapping[str, nn.Module]
) -> list[Path]:
    """Write the plain LoRA nearest to an adapter, in fp16, and read it back.

    In the kohya layout beside ``NAME.safetensors``; of another type than LoRA, which diffusers does
    not read, in its layout too, under the name that it looks for.

    Args:
        folder: Where it is written.
        name: Name of the adapter's file, without its ending.
        lora: The adapters.
        parts: The model's parts, with or without the adapters; their own weights count.

    Returns:
        The files, diffusers' one first; none for a plain LoRA, or over weights that are quantised,
        of which the update is a function.

    Raises:
        ExportError: If a file, read back, is not what was written.
    """
    doras = [part for part, spec in lora.specs.items() if spec.use_dora]
    adapted = [parts[part] for part in (*doras, *lora.updates)]
    if not adapted or any(_is_quantised(part) for part in adapted):
        return []
    updates = [each for layers in lora.updates.values() for each in layers.values()]
    is_product = bool(updates) and not any(each.needs_base for each in updates)
    found = plain_form(lora, CUT_OF_PRODUCTS if is_product else CUT, parts, with_doras=True)
    energy = sum(found.by_svd.values(), Energy())
    entries = header(lora.metadata, OF_THE_WEIGHTS)
    entries[MISSING] = f"{energy.relative_error:.4f}"
    plain = replace(in_dtype(found.lora, torch.float16), metadata=entries)
    files = []
    if updates:
        files.append(folder / DIFFUSERS_FILE)
        write_lora(files[0], plain, "diffusers")
    files.append(folder / twin_name(name))
    write_lora(files[-1], plain, "kohya")
    return files


def _is_quantised(module: nn.Module) -> bool:
    weights = (getattr(layer, "weight", None) for layer in module.modules())
    return any(isinstance(each, Tensor) and not each.is_floating_point() for each in weights)
