"""A DoRA as a plain LoRA in a file beside it, for programs that draw a DoRA otherwise or not."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from sdlora.adapters.arithmetic import Cut, Energy
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.plain_form import KEEP, plain_form
from sdlora.export.lora_files import OF_THE_WEIGHTS, header, write_lora
from sdlora.export.proof import PLAIN

CUT = Cut(r=64, keep=KEEP, is_quick=True)
"""What of a layer's update is kept. A DoRA changes the length of every row of a weight, so its
update has all ranks, few of them large; the bound keeps time and file of a wide model small."""

NEAR = 0.1
"""Share that may be missing before the end of a run advises to merge the DoRA instead."""

MISSING = "sdlora.missing_share"
"""Header entry: Frobenius norm of what the file lacks of the DoRA's update, relative to it."""


def twin_name(name: str) -> str:
    """File name of the plain LoRA beside ``NAME.safetensors``."""
    return f"{name}{PLAIN}.safetensors"


def file_of_others(folder: Path, name: str) -> Path:
    """The file for all programs but diffusers and peft: the plain LoRA where there is one."""
    twin = folder / twin_name(name)
    return twin if twin.is_file() else folder / f"{name}.safetensors"


def write_plain_twin(
    folder: Path, name: str, lora: LoraFile, parts: Mapping[str, nn.Module]
) -> Path | None:
    """Write the plain LoRA nearest to a DoRA in the kohya layout, in fp16, and read it back.

    Args:
        folder: Where it is written.
        name: Name of the DoRA's file, without its ending.
        lora: The adapters.
        parts: The model's parts, with or without the adapters; their own weights count.

    Returns:
        The file; ``None`` for an adapter that is no DoRA, or over weights that are quantised, of
        which the update is a function.

    Raises:
        ExportError: If the file, read back, is not what was written.
    """
    adapted = [parts[part] for part, spec in lora.specs.items() if spec.use_dora]
    if not adapted or any(_is_quantised(part) for part in adapted):
        return None
    found = plain_form(lora, CUT, parts, with_doras=True)
    energy = sum(found.by_svd.values(), Energy())
    halves = {
        part: {key: value.half() for key, value in state.items()}
        for part, state in found.lora.states.items()
    }
    entries = header(lora.metadata, OF_THE_WEIGHTS)
    entries[MISSING] = f"{energy.relative_error:.4f}"
    out = folder / twin_name(name)
    write_lora(out, replace(found.lora, states=halves, metadata=entries), "kohya")
    return out


def _is_quantised(module: nn.Module) -> bool:
    weights = (getattr(layer, "weight", None) for layer in module.modules())
    return any(isinstance(each, Tensor) and not each.is_floating_point() for each in weights)
