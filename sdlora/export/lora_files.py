"""Files of LoRAs without a training run, each proved before it replaces another."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sdlora.adapters.family_clues import Size
from sdlora.adapters.file_writing import write_diffusers_file, write_kohya_file, write_peft_folders
from sdlora.adapters.folding import folded
from sdlora.adapters.formats import apply_lora, read_lora, remove_lora
from sdlora.adapters.lora_families import find_family
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.lora_places import Layout
from sdlora.adapters.peft_config import DIFFUSERS_CONFIG
from sdlora.adapters.spec import LoraError
from sdlora.adapters.weights import SEAL, check_metadata
from sdlora.export.proof import ExportError, expectation, prove_file
from sdlora.export.same_adapters import FOLDED, different_updates
from sdlora.models.description import FamilyDescription
from sdlora.models.families import families
from sdlora.models.family import Family
from sdlora.runtime.files import atomic_path, whole_folder

ALPHA_TOLERANCE = 1e-6
"""Relative tolerance of alphas, which kohya's layout holds in float32."""

HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
OF_THE_FILE = (*HASHES, "format", SEAL, DIFFUSERS_CONFIG)
"""Header entries of a single file, which another file gets anew."""

OF_THE_WEIGHTS = (
    *("ss_network_dim", "ss_network_alpha", "ss_network_args"),
    *("ss_output_name", "modelspec.title"),
)
"""Header entries that are wrong for changed weights: ranks, alphas, and the name in A1111."""

OF_THE_RUN = ("sdlora.config", "sdlora.hashes")
"""Header entries on the training, which are wrong for weights that no run trained."""


class FreshBase(Protocol):
    """Loads the base model at each call, without an adapter."""

    def __call__(self, parts: Collection[str] = (), *, whole: bool = False) -> Family:
        """The model.

        Args:
            parts: Parts that are needed, in float32; none named: all.
            whole: Load the others as well, in the dtype of their files; else they have no weights.
        """


def write_lora(
    out: Path,
    lora: LoraFile,
    layout: Layout,
    prove: Callable[[Path], dict[str, float]] | None = None,
) -> dict[str, float]:
    """Write a LoRA in one layout and load it back; ``out`` is replaced only if the proof succeeds.

    Read back, tensors must be the same to the bit, and alphas within ``ALPHA_TOLERANCE``; and the
    update of each layer must be that of before alpha was folded into the tensors.

    Args:
        out: A ``.safetensors`` file; for peft a folder, with one more folder for each part.
        lora: The LoRA.
        layout: ``diffusers``, ``kohya`` or ``peft``.
        prove: A further proof of the file, such as :func:`prove_on_base`; raises if it fails.

    Returns:
        The result of ``prove``; empty without it.

    Raises:
        LoraError: If no file can hold it, or ``out`` has another ending.
        ExportError: If the file, read back, is not this LoRA; no file is left then.
    """
    if lora.updates:
        raise LoraError(f"out={out}: holds more than plain LoRA layers; convert it first")
    if layout != "peft" and out.suffix != ".safetensors":
        raise LoraError(f"out={out}: a {layout} file ends with .safetensors; name it so")
    titles = {"ss_output_name": out.stem, "modelspec.title": out.stem}
    lora = replace(lora, metadata={**titles, **header(lora.metadata)})
    check_metadata(out, lora.metadata)
    names = family_of(lora).trainable
    given, lora = lora, lora if layout == "peft" else folded(lora)
    with whole_folder(out) if layout == "peft" else atomic_path(out) as temporary:
        if layout == "peft":
            write_peft_folders(temporary, lora, names)
        elif layout == "kohya":
            write_kohya_file(temporary, lora, names)
        else:
            write_diffusers_file(temporary, lora, names)
        again = read_lora(temporary)
        require_same(lora, again, out)
        if wrong := different_updates(given, again, FOLDED):
            raise ExportError(
                f"{out}: read back, the update of {len(wrong)} layers is another one, such as "
                f"{wrong[0]}; nothing was written"
            )
        return {} if prove is None else prove(temporary)


def require_same(lora: LoraFile, again: LoraFile, path: Path) -> None:
    """Compare two LoRAs: tensors to the bit, effective alphas within ``ALPHA_TOLERANCE``.

    Raises:
        ExportError: Naming the first entry that differs.
    """
    for part in sorted(lora.states.keys() | again.states.keys()):
        before = lora.layers(part) if part in lora.states else {}
        after = again.layers(part) if part in again.states else {}
        wrong = sorted(before.keys() ^ after.keys())
        for name in before.keys() & after.keys():
            old, new = before[name], after[name]
            same = all(_same(old[kind], new.get(kind), kind) for kind in old if kind != "alpha")
            difference = abs(old["alpha"] - new["alpha"]).item()
            if old.keys() != new.keys() or not same:
                wrong.append(name)
            elif difference > ALPHA_TOLERANCE * old["alpha"].item():
                wrong.append(f"{name}: alpha {old['alpha']:g} became {new['alpha']:g}")
        if wrong:
            raise ExportError(
                f"{path}: {part}: read back, {len(wrong)} layers are not the same, such as "
                f"{wrong[0]}; nothing was written"
            )


def _same(old: Tensor, new: Tensor | None, kind: str) -> bool:
    """Whether a tensor is the same; magnitudes lie along the outputs in every layout."""
    if new is None:
        return False
    if kind == "magnitude":
        return torch.equal(old.flatten(), new.flatten())
    return torch.equal(old, new)


def family_of(lora: LoraFile) -> FamilyDescription:
    """The family of a LoRA: by its header's name for it, else by its layers, else the first."""
    known = families()
    version = lora.metadata.get("ss_base_model_version", "")
    if version in known:  # of a family that goes by its own name there
        return known[version]
    found = lora.family if lora.family.candidates else find_family(_sizes(lora), lora.metadata)
    named = [known[each.name] for each in found.candidates if each.name in known]
    every = [*named, *known.values()]
    return next((each for each in every if set(lora.parts) <= set(each.trainable)), every[0])


def _sizes(lora: LoraFile) -> dict[str, Size]:
    """Layers, with their part's name in front -> outputs and inputs."""
    return {
        f"{part}.{layer}": (tensors["B"].shape[0], tensors["A"].shape[1])
        for part in lora.states
        for layer, tensors in lora.layers(part).items()
    }


def header(metadata: Mapping[str, str], without: Sequence[str] = ()) -> dict[str, str]:
    """The header entries that stay true for another file with the same content."""
    dropped = {*OF_THE_FILE, *without}
    return {key: value for key, value in metadata.items() if key not in dropped}


def shared_header(loras: Sequence[LoraFile]) -> dict[str, str]:
    """The header entries that several files agree on, without those of a training run."""
    first = header(loras[0].metadata, (*OF_THE_WEIGHTS, *OF_THE_RUN))
    return {
        key: value
        for key, value in first.items()
        if all(lora.metadata.get(key) == value for lora in loras)
    }


def prove_on_base(
    path: Path, lora: LoraFile, layout: Layout, fresh_base: FreshBase
) -> dict[str, float]:
    """Prove a file by the users' loader: outputs must be those of the LoRA applied directly.

    Tolerance and its reason: :func:`sdlora.export.proof.prove_export`.

    Args:
        path: The file, or peft's folder.
        lora: The expected LoRA.
        layout: Its layout.
        fresh_base: Loads the base model.

    Returns:
        Largest difference of outputs by ``layout/part``.

    Raises:
        LoraError: If the LoRA does not fit the base.
        ExportError: If outputs, weights or scales differ.
    """
    family = fresh_base(tuple(lora.states))
    parts = {part: family.parts[part] for part in lora.states}
    apply_lora(parts, lora)
    expected = expectation(parts)
    remove_lora(*parts.values())
    return prove_file(path, layout, family.pipeline(), expected)
