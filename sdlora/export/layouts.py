"""Export of a trained model: a LoRA in all layouts, or a pipeline folder."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

from sdlora.adapters.file_writing import (
    adapted_parts,
    adapters_of,
    write_diffusers_file,
    write_kohya_file,
    write_peft,
)
from sdlora.adapters.folding import folded, in_dtype
from sdlora.adapters.lora import lora_parameters
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.lora_places import DIFFUSERS_FILE
from sdlora.adapters.spec import LoraError
from sdlora.adapters.textual_inversion import write_embeddings
from sdlora.adapters.weights import check_finite
from sdlora.export.plain_twin import write_plain_twin
from sdlora.models.description import PartNames
from sdlora.runtime.files import whole_folder, write_json

READ_FROM = "_name_or_path"
"""Key of a part's config with the folder that it was read from."""


def export_lora(
    folder: Path,
    *,
    parts: Mapping[str, nn.Module],
    names: Mapping[str, PartNames],
    metadata: Mapping[str, str],
    name: str,
    new_word: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Path]:
    """Write a LoRA in three layouts; an older export is replaced only by a whole one.

    ``pytorch_lora_weights.safetensors`` (diffusers), ``<name>.safetensors`` (kohya: ComfyUI, A1111)
    and a peft folder for each adapted part, such as ``unet/``. Of a DoRA, LoHa, LoKr and OFT also
    ``<name>_plain.safetensors``, the nearest plain LoRA; of the latter three diffusers' file is
    that one, since diffusers reads no other.

    Args:
        folder: Target folder; replaced as a whole.
        parts: All parts of the model by name; those without an adapter are left out.
        names: Names of its family's parts in files.
        metadata: Text for the headers, such as ``ss_*`` (kohya) and ``modelspec.*`` keys.
        name: The LoRA's title and the kohya file's name.
        new_word: A learned word, alone or with the LoRA; its embeddings are written into
            ``embeddings/``.
        dtype: Of the adapter in the files; alpha is folded before it is rounded.

    Returns:
        The files, embeddings last.

    Raises:
        LoraError: If there is no adapter, it holds NaN or infinity, or a text encoder's is a DoRA
            (whose magnitudes diffusers does not load).
    """
    if f"{name}.safetensors" == DIFFUSERS_FILE:
        raise LoraError(f"name={name}: is the diffusers file's name; choose another")
    files: list[Path] = []
    with whole_folder(folder) as temporary:
        if new_word is None or any(lora_parameters(module) for module in parts.values()):
            lora = adapters_of(parts, metadata)
            files += _write_layouts(temporary, name, lora, names, dtype)
            for part, module in adapted_parts(parts).items():
                files += write_peft(temporary / part, module, dtype)
            files += write_plain_twin(temporary, name, lora, parts)
        if new_word is not None:
            files += write_embeddings(
                temporary, word=new_word, parts=parts, names=names, metadata=metadata
            )
    return [folder / file.relative_to(temporary) for file in files]


def _write_layouts(
    folder: Path,
    name: str,
    lora: LoraFile,
    names: Mapping[str, PartNames],
    dtype: torch.dtype,
) -> list[Path]:
    """Write diffusers' file, of a LoRA alone, and kohya's."""
    written = in_dtype(folded(lora), dtype)
    files: list[Path] = []
    if not lora.updates:
        files.append(write_diffusers_file(folder / DIFFUSERS_FILE, written, names))
    return [*files, write_kohya_file(folder / f"{name}.safetensors", written, names)]


def export_pipeline(folder: Path, pipeline: DiffusionPipeline) -> Path:
    """:func:`write_pipeline` into a folder that is replaced as a whole.

    Returns:
        ``folder``.
    """
    with whole_folder(folder) as temporary:
        write_pipeline(temporary, pipeline)
    return folder


def write_pipeline(folder: Path, pipeline: DiffusionPipeline) -> None:
    """Write a whole model as a diffusers folder, for training without an adapter.

    Args:
        folder: An empty folder.
        pipeline: The trained model.

    Raises:
        LoraError: If its weights hold NaN or infinity, or it carries an adapter.
    """
    for part, module in pipeline.components.items():
        if not isinstance(module, nn.Module):
            continue
        if lora_parameters(module):
            raise LoraError(f"{part} carries an adapter; write it with export_lora")
        check_finite(folder / part, dict(module.named_parameters()))
    save_pipeline(folder, pipeline)


def save_pipeline(folder: Path, pipeline: DiffusionPipeline) -> None:
    """Save a pipeline in diffusers' layout, without the places that its parts were read from.

    Args:
        folder: Gets the files.
        pipeline: Any.
    """
    pipeline.save_pretrained(folder, safe_serialization=True)
    for path in (folder / "model_index.json", *folder.glob("*/config.json")):
        values = json.loads(path.read_text("utf-8"))
        if values.pop(READ_FROM, None) is not None:
            write_json(path, values)
