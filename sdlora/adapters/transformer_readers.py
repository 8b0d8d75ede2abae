"""Spellings of Z-Image's and FLUX.2's LoRA files that diffusers and ComfyUI take, by rules."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sdlora.adapters.adapter_layers import FileLayer
from sdlora.adapters.transformer_names import diffusers_layers

_WAYS = (
    *("base_model.model.", "diffusion_model.", "transformer."),
    *("lora_unet_", "lora_transformer_", "lycoris_"),
)
BARE = ""

_ONLY_IN_DIFFUSERS = {"z_image": r"\.attention\.to_", "flux2_klein": r"."}
"""Layers that the original code calls otherwise, or has in one with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How a layer is written.

    Attributes:
        way: What stands before its name.
        is_diffusers: Its name is diffusers' own.
        is_original: Its name is one of the original code.
        is_down_up: Its matrices are ``lora_down`` and ``lora_up``, not ``lora_A`` and ``lora_B``.
        has_alpha: It has an alpha of its own.
        is_out: It is the last projection of an attention.
    """

    way: str
    is_diffusers: bool
    is_original: bool
    is_down_up: bool
    has_alpha: bool
    is_out: bool


def _diffusers_z_image(it: Spelling) -> bool:
    is_known = it.is_diffusers or (it.is_out and it.is_down_up)
    is_converted = it.has_alpha or it.is_down_up
    return {
        "lora_unet_": it.is_down_up,
        "diffusion_model.": is_known,
        "transformer.": it.is_diffusers and not is_converted,
        BARE: is_known and it.has_alpha,
    }.get(it.way, False)


def _diffusers_klein(it: Spelling) -> bool:
    if it.way == "lora_unet_":
        return it.is_original and it.is_down_up
    if it.has_alpha or it.is_down_up:
        return False
    if it.way == "transformer.":
        return it.is_diffusers
    return it.way in ("base_model.model.", "diffusion_model.")


def _comfy_z_image(it: Spelling) -> bool:
    of_diffusers = it.is_diffusers and it.way in (
        "diffusion_model.",
        "transformer.",
        "lycoris_",
        BARE,
    )
    return of_diffusers or _comfy_original(it)


def _comfy_klein(it: Spelling) -> bool:
    of_diffusers = it.is_diffusers and it.way in ("transformer.", "lycoris_", "lora_transformer_")
    return of_diffusers or _comfy_original(it)


def _comfy_original(it: Spelling) -> bool:
    return it.is_original and it.way in ("diffusion_model.", "lora_unet_")


Rule = Callable[[Spelling], bool]

RULES: Mapping[str, Mapping[str, Rule]] = {
    "z_image": {"diffusers": _diffusers_z_image, "ComfyUI": _comfy_z_image},
    "flux2_klein": {"diffusers": _diffusers_klein, "ComfyUI": _comfy_klein},
}
"""Family -> program -> whether it uses a layer of a plain LoRA; else it drops the layer, or refuses
the file.

Source: huggingface/diffusers ``loaders/lora_conversion_utils.py`` (0.42; tried by the tests);
comfyanonymous/ComfyUI ``comfy/lora.py``, ``model_lora_keys_unet``, and the maps of names in
``comfy/utils.py``.
"""


def spelling_of(name: str, layer: FileLayer, family: str) -> Spelling | None:
    """How a layer of a file is written; ``None`` where no name of the family fits."""
    targets = diffusers_layers(name, family)
    if not targets:
        return None
    way = next((start for start in _WAYS if name.startswith(start)), BARE)
    own, target = _flat(name.removeprefix(way)), targets[0]
    is_diffusers = len(targets) == 1 and own == _flat(target)
    return Spelling(
        way=way,
        is_diffusers=is_diffusers,
        is_original=not (is_diffusers and re.search(_ONLY_IN_DIFFUSERS[family], target)),
        is_down_up="lora_down" in layer.keys.get("A", ""),
        has_alpha="alpha" in layer.keys,
        is_out=target.endswith(".to_out.0"),
    )


def _flat(name: str) -> str:
    return name.replace(".", "_")
