"""The command ``sdlora lora fix``: a LoRA file without its faults, each of them named."""

import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdlora.adapters.adapter_layers import file_layers
from sdlora.adapters.file_content import Content
from sdlora.adapters.formats import header_config
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.lora_places import layout_of, weights_file
from sdlora.adapters.peft_config import DamagedConfigError
from sdlora.adapters.plain_form import plain_form
from sdlora.adapters.spec import LoraError
from sdlora.adapters.weights import read_weights
from sdlora.commands.lora.tools import refuse_existing
from sdlora.export.lora_files import OF_THE_WEIGHTS, header, write_lora
from sdlora.runtime.progress import Progress


def fix(options: Namespace) -> None:
    """Write a file without layers of NaN, without foreign keys, and with an alpha that holds.

    Raises:
        LoraError: If there is nothing to repair, or nothing that is left.
    """
    refuse_existing(options)
    path = weights_file(options.file)
    tensors, metadata = read_weights(path, must_be_finite=False)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    lines: list[str] = []
    kept = dict(tensors)
    for name, layer in file_layers(shapes, metadata).layers.items():
        own = [key for role, key in layer.keys.items() if role != "alpha"]
        bad = [key for key in own if not _finite(tensors[key])]
        if bad:
            lines.append(f"{name}: left out, NaN or infinity in {len(bad)} tensors")
            for key in layer.keys.values():
                del kept[key]
        elif layer.kind.rank(layer.shapes) is not None:
            lines += _set_alpha(kept, name, layer.keys.get("alpha"), options.alpha)
    layout = layout_of(tensors)
    content = Content(path, kept, header(metadata, OF_THE_WEIGHTS), layout)
    lora = content.lora_file(_config(path, metadata, options.alpha, lines), skip_unknown=True)
    lines += [f"{line}: left out" for line in lora.left_out]
    if not lines:
        raise LoraError(f"{path}: nothing to repair; an alpha is changed by --alpha")
    _write(options, lora, lines)


def _write(options: Namespace, lora: LoraFile, lines: list[str]) -> None:
    found = plain_form(lora)
    lines += [f"{line}: left out, which no plain LoRA holds" for line in found.not_held]
    layout = options.layout or lora.layout
    write_lora(options.out, found.lora, layout)
    with Progress(enabled=False) as progress:
        for line in lines:
            progress.print(line)
        progress.print(f"written and proved: {options.out} ({layout}), {len(lines)} repairs")


def _config(
    path: Path, metadata: Mapping[str, str], wanted: float | None, lines: list[str]
) -> dict[str, dict[str, Any]]:
    """Alphas of a header of diffusers, without those that cannot be meant."""
    try:
        found = header_config(path, metadata)
    except DamagedConfigError:
        lines.append("the adapter's config in the header: left out, damaged")
        return {}
    for part, config in found.items():
        alpha = config.get("lora_alpha")
        if wanted is not None or not config:
            config.clear()
        elif alpha is not None and not (math.isfinite(alpha) and alpha > 0):
            del config["lora_alpha"]
            lines.append(f"{part}: alpha is the rank, was {alpha:g} in the header")
    return found


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.float()).all())


def _set_alpha(
    kept: dict[str, Tensor], name: str, key: str | None, wanted: float | None
) -> list[str]:
    """Give a layer the alpha of the command; one that cannot be meant is left out: the rank."""
    stored = None if key is None else kept[key].item()
    if wanted is not None:
        if stored == wanted:
            return []
        kept[key or f"{name}.alpha"] = torch.tensor(wanted)
        was = "the rank" if stored is None else f"{stored:g}"
        return [f"{name}: alpha {wanted:g}, was {was}"]
    if key is None or stored is None or (math.isfinite(stored) and stored > 0):
        return []
    del kept[key]
    return [f"{name}: alpha is the rank, was {stored:g}"]
