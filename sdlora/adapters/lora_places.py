"""Paths of LoRA files: a file, an export folder, peft's folders; and the layout by the keys."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

from sdlora.adapters.layer_paths import FLAT
from sdlora.adapters.spec import LoraError

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"

PLAIN = "_plain"
"""Ends the name of the plain LoRA beside a DoRA, LoHa, LoKr or OFT: nearly the same update."""

_PEFT_PICKLE = "adapter_model.bin"


Layout = Literal["diffusers", "kohya", "peft"]


def layout_of(keys: Iterable[str]) -> Layout:
    """The layout of a file: ``kohya`` for names with ``_``, ``peft`` for its own wrapping."""
    names = list(keys)
    if any(name.startswith((*FLAT, "lora_transformer_", "lora_prior_")) for name in names):
        return "kohya"
    return "peft" if any(name.startswith("base_model.") for name in names) else "diffusers"


def weight_files(path: Path, parts: Collection[str]) -> list[Path]:
    """The weight files of a LoRA.

    Args:
        path: A file or folder.
        parts: Names of parts, of which peft has a folder each.

    Raises:
        LoraError: If there is none, or several that are not one LoRA.
    """
    folders = peft_folders(path, parts)
    return [folder / PEFT_FILE for folder in folders] or [weights_file(path)]


def weights_file(path: Path) -> Path:
    """The one weight file of a path that is no peft folder.

    Raises:
        LoraError: If a folder holds none, or several.
    """
    if not path.is_dir():
        return path
    if (path / DIFFUSERS_FILE).is_file():
        return trained_file(path)
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise LoraError(f"{path}: holds no {DIFFUSERS_FILE}; name one file of it (found: {names})")
    return found[0]


def trained_file(folder: Path) -> Path:
    """The file of an export that has the adapter as it was trained.

    It is diffusers' one, unless a plain LoRA stands in for what diffusers does not read: then the
    one that has a twin.
    """
    for twin in sorted(folder.glob(f"*{PLAIN}.safetensors")):
        own = twin.with_stem(twin.stem.removesuffix(PLAIN))
        if own.is_file():
            return own
    return folder / DIFFUSERS_FILE


def peft_folders(path: Path, parts: Collection[str]) -> list[Path]:
    """The folders of a path that peft wrote: itself, or one for each part; none of other files.

    Raises:
        LoraError: If their weights are a pickle.
    """
    if path.name in (PEFT_FILE, _PEFT_PICKLE):
        path = path.parent
    if (path / PEFT_CONFIG).is_file():
        found = [path]
    elif not path.is_dir() or list(path.glob("*.safetensors")):
        found = []
    else:
        found = [path / part for part in parts if (path / part / PEFT_CONFIG).is_file()]
    for folder in found:
        if (folder / _PEFT_PICKLE).is_file() and not (folder / PEFT_FILE).is_file():
            raise LoraError(
                f"{folder / _PEFT_PICKLE}: a pickle, which can run any code when loaded; save the "
                f"adapter again with safe_serialization=True, which writes {PEFT_FILE}"
            )
    return found
