"""Programs that read LoRA files: what each makes of a file."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sdlora.adapters.adapter_kinds import IN, OUT, dora_axis
from sdlora.adapters.adapter_layers import FileLayer, FileLayers
from sdlora.adapters.transformer_readers import RULES, Rule, spelling_of

KOHYA, LYCORIS, DIFFUSERS, COMFY, OLD, BARE = (
    *("kohya", "lycoris", "diffusers", "comfy", "old processors", "without a part"),
)
"""Ways to name a layer."""

_WAYS = {
    r"lora_unet_|lora_te": KOHYA,
    r"lycoris_": LYCORIS,
    r"diffusion_model\.|text_encoders\.": COMFY,
    r"(?:unet\.|text_encoder).*processor\.": OLD,
    r"unet\.|text_encoder": DIFFUSERS,
}
STABLE_DIFFUSION = ("sd", "sdxl", "kolors")
"""Families whose files all of :data:`READERS` know."""

_LYCORIS_KINDS = frozenset({"loha", "lokr", "full", "norm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraReader:
    """A program.

    Attributes:
        name: Its name.
        ways: Names of the U-Net's layers that it knows.
        text_ways: Names of the text encoders' layers that it knows.
        endings: Pattern of the ends of a plain LoRA's keys that it knows.
        kinds: Kinds (:mod:`sdlora.adapters.adapter_kinds`) that it reads.
        dora: Axis of ``dora_scale``, or ``lora_magnitude_vector`` -> what it does with it; what is
            not here is read right.
        alpha: What it does with a config in the header that says alpha.
        refuses: Whether a key that it does not know makes it refuse the file.
        needs_kinds: Whether a layer by kohya's names that it cannot read makes it refuse the file.
        passes_over: Pattern of layers by kohya's names that it never reads.
        drops_alpha: Pattern of the ends of a plain LoRA's keys beside which it drops alpha.
        needs_base: Whether it takes no file of Stable Diffusion 1 and 2 of which no layer tells it
            the base (:func:`_tells_base`).
    """

    name: str
    ways: frozenset[str]
    text_ways: frozenset[str]
    endings: str
    kinds: frozenset[str]
    dora: Mapping[str, str]
    alpha: str = "ignores the alpha of the header: another strength"
    refuses: bool = False
    needs_kinds: bool = False
    passes_over: str | None = None
    drops_alpha: str | None = None
    needs_base: bool = False


PEFT = "magnitude"
"""The role of ``lora_magnitude_vector``."""

DROPPED = "drops its magnitudes: another update"

_DIFFUSERS_ROLES = frozenset({"A", "B", "alpha", "dora_scale", "magnitude"})

_DOWN_UP = r"\.lora_(?:down|up|mid)\.weight$"

READERS = (
    LoraReader(
        name="diffusers",
        ways=frozenset({KOHYA, DIFFUSERS, OLD}),
        text_ways=frozenset({KOHYA, DIFFUSERS}),
        endings=r"\.lora_(?:down|up|A|B)\.weight$|lora\.(?:down|up)\.weight$|_layer\.(?:down|up)",
        kinds=frozenset({"lora"}),
        dora={axis: DROPPED for axis in (IN, OUT)},
        alpha="",
        refuses=True,
    ),
    LoraReader(
        name="ComfyUI",
        ways=frozenset({KOHYA, LYCORIS, COMFY, OLD}),
        text_ways=frozenset({KOHYA, COMFY, DIFFUSERS}),
        endings=r".",
        kinds=_LYCORIS_KINDS | {"lora", "glora", "oft", "bias"},
        dora={
            OUT: "divides by the length of W alone: 4 to 12 % of the update off",
            PEFT: DROPPED,
        },
    ),
    LoraReader(
        name="A1111",
        ways=frozenset({KOHYA}),
        text_ways=frozenset({KOHYA}),
        endings=r"\.lora_(?:down|up|mid|A|B)\.weight$",
        kinds=_LYCORIS_KINDS | {"lora", "glora", "oft", "ia3"},
        dora={OUT: "takes the length over the other axis: wrong", PEFT: DROPPED},
        needs_kinds=True,
        drops_alpha=r"\.lora_[AB]\.weight$",
    ),
    LoraReader(
        name="InvokeAI",
        ways=frozenset({KOHYA}),
        text_ways=frozenset({KOHYA}),
        endings=_DOWN_UP,
        kinds=_LYCORIS_KINDS | {"lora", "ia3"},
        dora={OUT: "takes the length over the other axis: wrong", PEFT: DROPPED},
        needs_kinds=True,
        needs_base=True,
    ),
    LoraReader(
        name="sd-scripts",
        ways=frozenset({KOHYA}),
        text_ways=frozenset({KOHYA}),
        endings=_DOWN_UP,
        kinds=frozenset({"lora"}),
        dora={axis: DROPPED for axis in (IN, OUT, PEFT)},
        passes_over="lora_unet_(?:conv_in|conv_out|time_embedding)",
    ),
)
"""Source: huggingface/diffusers ``loaders/lora_pipeline.py`` (0.42); comfyanonymous/ComfyUI
``comfy/lora.py`` and ``comfy/weight_adapter``; AUTOMATIC1111/stable-diffusion-webui
``extensions-builtin/Lora`` (``networks.py``, ``network_*.py``); invoke-ai/InvokeAI
``invokeai/backend/patches``, ``model_manager/configs/lora.py``; kohya-ss/sd-scripts
``networks/lora.py``."""

_TELLING = re.compile(r"lora_unet_.*_attn2_to_[kv]$|lora_te_.*_self_attn_")
"""Layers by whose inputs InvokeAI knows Stable Diffusion 1 from 2."""

_WITH_INPUTS = ({"A"}, {"hada_w1_b"}, {"lokr_w1", "lokr_w2"}, {"diff"})
"""Roles in which it finds them. It looks for a LoKr's factors under a name that none has, so a
factored one tells it nothing (``model_manager/util/model_util.py``)."""


def verdicts(content: FileLayers, has_config_alpha: bool) -> dict[str, str]:
    """Program -> what it makes of a file; of the transformer families, the two with rules here.

    Args:
        content: The file's layers.
        has_config_alpha: Whether its header says an alpha that is not the rank.
    """
    family = content.family.name or ""
    rules = RULES.get(family)
    if rules is None and family not in STABLE_DIFFUSION:
        return {}
    return {
        reader.name: _verdict(
            reader, content, has_config_alpha, None if rules is None else rules[reader.name]
        )
        for reader in READERS
        if rules is None or reader.name in rules
    }


def programs_that_read(kind: str) -> list[str]:
    """The programs that read a kind of adapter by kohya's names, some of them only some files."""
    return [each.name for each in READERS if kind in each.kinds and KOHYA in each.ways]


def way_of(name: str) -> str:
    """The way in which a layer is named."""
    return next((way for start, way in _WAYS.items() if re.match(start, name)), BARE)


def _verdict(
    reader: LoraReader, content: FileLayers, has_config_alpha: bool, rule: Rule | None
) -> str:
    if reader.refuses and rule is None and (why := _refusal(reader, content)):
        return f"refuses it, for {why}"
    if rule is None and (why := _unread_kind(reader, content)):
        return f"refuses it, for {why}"
    if rule is None and reader.needs_base and not _tells_base(content):
        return (
            "does not recognise it: no layer tells it the base (attn2.to_k, attn2.to_v, or a text "
            "encoder's self-attention; a LoKr's only where both matrices are whole)"
        )
    family = content.family.name or ""
    lost = [
        name
        for name, layer in content.layers.items()
        if not (
            _reads(reader, name, layer)
            if rule is None
            else _reads_transformer(reader, name, layer, family, rule)
        )
    ]
    total = len(content.layers)
    if len(lost) == total:
        return f"reads nothing of it ({_example(lost, content)})"
    faults = []
    if lost:
        or_refuses = " or refuses it" if reader.refuses else ""
        lost_text = f"leaves out {len(lost)} of {total} layers{or_refuses}"
        faults.append(f"{lost_text} ({_example(lost, content)})")
    axes = {
        PEFT if PEFT in layer.shapes else dora_axis(layer.shapes)
        for layer in content.layers.values()
    }
    faults += [f"DoRA: {what}" for axis, what in reader.dora.items() if axis in axes]
    if has_config_alpha and reader.alpha:
        faults.append(reader.alpha)
    if rule is None and _loses_alpha(reader, content):
        faults.append("drops alpha: another strength unless it is the rank")
    return "; ".join(faults) or "reads it whole"


def _refusal(reader: LoraReader, content: FileLayers) -> str | None:
    """Why diffusers refuses a file as a whole; ``None``: it does not.

    It wants the word ``lora`` in every key, and every key of kohya's names to be known; and it
    tells kohya's names of a text encoder by ``out_proj``.
    """
    if content.unknown:
        return content.unknown[0]
    for name, layer in content.layers.items():
        unread = [key for role, key in layer.keys.items() if role not in _DIFFUSERS_ROLES]
        wordless = [key for key in layer.keys.values() if "lora" not in key]
        is_kohya = way_of(name) == KOHYA
        if unread or wordless:
            return (unread or wordless)[0]
        if is_kohya and not _reads(reader, name, layer):
            return layer.keys["A"]
    text = [name for name in content.layers if name.startswith("lora_te")]
    if text and not any("out_proj" in name for name in text):
        return "a text encoder without out_proj"
    return None


def _unread_kind(reader: LoraReader, content: FileLayers) -> str | None:
    """A key of a layer by kohya's names that makes a program refuse the file."""
    if reader.needs_kinds:
        for name, layer in content.layers.items():
            if way_of(name) == KOHYA and not _reads(reader, name, layer):
                return next(iter(layer.keys.values()))
    return None


def _tells_base(content: FileLayers) -> bool:
    return content.family.name != "sd" or any(
        _TELLING.match(name) and any(roles <= layer.shapes.keys() for roles in _WITH_INPUTS)
        for name, layer in content.layers.items()
    )


def _loses_alpha(reader: LoraReader, content: FileLayers) -> bool:
    return reader.drops_alpha is not None and any(
        "alpha" in layer.keys and re.search(reader.drops_alpha, layer.keys.get("A", ""))
        for name, layer in content.layers.items()
        if way_of(name) == KOHYA
    )


def _reads(reader: LoraReader, name: str, layer: FileLayer) -> bool:
    way = way_of(name)
    ways = reader.text_ways if re.match(r"lora_te|text_encoder", name) else reader.ways
    if way not in ways or layer.kind.name not in reader.kinds:
        return False
    if reader.passes_over is not None and re.match(reader.passes_over, name):
        return False
    if layer.kind.name != "lora" or reader.endings == ".":
        return True
    ends = _DOWN_UP if way == KOHYA and reader.refuses else reader.endings
    return re.search(ends, layer.keys["A"]) is not None


def _reads_transformer(
    reader: LoraReader, name: str, layer: FileLayer, family: str, rule: Rule
) -> bool:
    spelling = spelling_of(name, layer, family)
    return layer.kind.name in reader.kinds and spelling is not None and rule(spelling)


def _example(names: Iterable[str], content: FileLayers) -> str:
    name = next(iter(names))
    return f"{content.layers[name].kind.title} {name}"
