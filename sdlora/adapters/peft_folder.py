"""Reading of the folders that peft writes: LoRA, LoHa, LoKr, OFT and IA3."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdlora.adapters.file_content import Content
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.lora_places import PEFT_CONFIG, PEFT_FILE
from sdlora.adapters.peft_config import json_mapping
from sdlora.adapters.spec import LoraError
from sdlora.adapters.update_formulas import NEUMANN_TERMS
from sdlora.adapters.weights import read_weights
from sdlora.models.families import part_names


def read_peft(
    folders: Sequence[Path], must_be_finite: bool = True, skip_unknown: bool = False
) -> LoraFile:
    """Read the folders of one adapter, a folder for each part.

    Raises:
        LoraError: If one is damaged, or of a kind or with options that are not supported.
    """
    found: LoraFile | None = None
    for folder in folders:
        one = _read_folder(folder, must_be_finite, skip_unknown)
        found = one if found is None else _together(found, one)
    assert found is not None
    return found


def _read_folder(folder: Path, must_be_finite: bool, skip_unknown: bool) -> LoraFile:
    text = (folder / PEFT_CONFIG).read_text("utf-8")
    config = json_mapping(folder / PEFT_CONFIG, text)
    kind = str(config.get("peft_type", "LORA"))
    if kind not in _KINDS:
        raise LoraError(
            f"{folder}: a {kind} adapter; of peft's only {', '.join(_KINDS)} are read here"
        )
    tensors, metadata = read_weights(folder / PEFT_FILE, text, must_be_finite)
    names = part_names()
    own = folder.name if folder.name in names else None
    content = Content(folder, tensors, metadata, "peft", part=own)
    lora = content.lora_file(dict.fromkeys(names, config), skip_unknown)
    settled: Callable[[LayerUpdate], LayerUpdate] = _KINDS[kind](folder, config)
    updates = {
        part: {layer: settled(update) for layer, update in layers.items()}
        for part, layers in lora.updates.items()
    }
    return replace(lora, updates=updates)


def _lora(folder: Path, config: Mapping[str, Any]) -> Callable[[LayerUpdate], LayerUpdate]:
    """Rank-stabilised scales of the layers that are no plain LoRA; the others' are in the spec."""

    def settled(update: LayerUpdate) -> LayerUpdate:
        rank = update.kind.rank(update.shapes)
        if not config.get("use_rslora") or rank is None or update.alpha is None:
            return update
        return replace(update, alpha=update.alpha * rank**0.5)

    return settled


def _product(folder: Path, config: Mapping[str, Any]) -> Callable[[LayerUpdate], LayerUpdate]:
    """Scales of LoHa and LoKr: alpha over the config's rank, even of two whole matrices."""

    def settled(update: LayerUpdate) -> LayerUpdate:
        if update.kind.rank(update.shapes) is None and update.alpha is not None:
            return replace(update, scalar=update.alpha / int(config["r"]))
        return update

    return settled


def _oft(folder: Path, config: Mapping[str, Any]) -> Callable[[LayerUpdate], LayerUpdate]:
    """OFT as peft trains it by default."""
    wanted = {
        "coft": False,
        "use_cayley_neumann": True,
        "num_cayley_neumann_terms": NEUMANN_TERMS,
    }
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise LoraError(f"{folder}: an OFT with {key}={config[key]}; only {value} is read here")
    return lambda update: update


def _ia3(folder: Path, config: Mapping[str, Any]) -> Callable[[LayerUpdate], LayerUpdate]:
    return lambda update: update


_KINDS = {"LORA": _lora, "LOHA": _product, "LOKR": _product, "OFT": _oft, "IA3": _ia3}
"""``peft_type`` -> how its config changes what its tensors say."""


def _together(one: LoraFile, other: LoraFile) -> LoraFile:
    return replace(
        one,
        states={**one.states, **other.states},
        specs={**one.specs, **other.specs},
        updates={**one.updates, **other.updates},
        metadata={**one.metadata, **other.metadata},
        left_out=[*one.left_out, *other.left_out],
    )
