"""Roles of tensors in adapter files: the end of a key says what its tensor is of its layer."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_ADAPTER = r"(?:\.(?!weight\b|bias\b)[A-Za-z_][\w-]*)?"
"""peft's name of an adapter, such as ``.default``, which files of a whole model keep."""

_ROLES: dict[str, str] = {
    "A": rf"(?:\.lora_A|\.lora_down|\.lora\.down|[._]lora_linear_layer\.down|_lora\.down)"
    rf"{_ADAPTER}(?:\.weight)?",
    "B": rf"(?:\.lora_B|\.lora_up|\.lora\.up|[._]lora_linear_layer\.up|_lora\.up)"
    rf"{_ADAPTER}(?:\.weight)?",
    "B_bias": rf"(?:\.lora_B|\.lora_up){_ADAPTER}\.bias",
    "mid": rf"\.lora_mid{_ADAPTER}(?:\.weight)?",
    "magnitude": rf"(?:\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?|\.magnitude)",
    **{
        name: rf"\.{name}{_ADAPTER}"
        for name in (
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
            *("lokr_t2", "ia3_l"),
        )
    },
    "oft_scaled": r"\.oft_R\.scaled_oft",
    "oft_R": rf"\.oft_R{_ADAPTER}(?:\.weight)?",
    **{name: rf"\.{name}\.weight" for name in ("a1", "a2", "b1", "b2", "bm")},
    **{
        name: rf"\.{name}"
        for name in (
            *("alpha", "dora_scale", "oft_blocks", "rescale", "scalar", "on_input", "weight"),
            *("w_norm", "b_norm", "diff", "diff_b"),
        )
    },
}
"""Role -> pattern of the end of its keys, in every spelling; the first that matches counts.

Source:
    kohya-ss/sd-scripts ``networks/lora.py``; KohakuBlueleaf/LyCORIS ``modules/*.py``
    (``weight_list``); huggingface/peft and diffusers (their state dicts and converters of older
    names); comfyanonymous/ComfyUI ``comfy/weight_adapter``; Nerogar/OneTrainer
    ``modules/module/LoRAModule.py``.
"""

_KEY = re.compile(
    "(?P<layer>.+?)(?:" + "|".join(f"(?P<{role}>{end})" for role, end in _ROLES.items()) + r")\Z"
)

EMBEDDING = re.compile(r"bundle_emb\.(?P<word>.+)\.[^.]+\Z")
"""A new word's embedding that OneTrainer bundles with a LoRA."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a key says.

    Attributes:
        layer: Its layer as the file names it, with prefix.
        name: Role of the tensor in it, such as ``A``.
    """

    layer: str
    name: str


def role_of(key: str) -> Role | None:
    """Layer and role of a key; ``None`` for one that is of no adapter."""
    if EMBEDDING.match(key):
        return None
    match = _KEY.match(key)
    if match is None:
        return None
    name = match.lastgroup
    assert name is not None
    return Role(match["layer"], name)


def described(keys: Iterable[str]) -> list[str]:
    """Keys that are of no adapter, one line each; embeddings by their word."""
    lines = []
    for key in keys:
        match = EMBEDDING.match(key)
        lines.append(f"{key}: the embedding of the word {match['word']}" if match else key)
    return lines
