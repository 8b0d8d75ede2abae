"""What other programs make of exported files, by their own rules, rewritten from their sources.

A rule maps keys to layers and gives the update of each weight. It must use every tensor of its file
and give the trained update; and each mutant of the file must turn it red. diffusers and peft are no
rules here: the libraries themselves read the files in ``test_export.py`` and
``test_export_of_types.py``.

Each rule names the files of the program that it follows, read in November 2026.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn

from sdlora.adapters.formats import read_metadata
from sdlora.adapters.lora import add_lora
from sdlora.adapters.spec import LoraSpec
from sdlora.adapters.strength import merged
from sdlora.export.layouts import export_lora
from sdlora.export.plain_twin import MISSING
from sdlora.models.sd import SD
from tests.unit.adapters.tiny_models import ATTENTION, randomise, tiny_text_encoder

R, ALPHA = 4, 6.0
TYPES = ("lora", "loha", "lokr", "oft")

NEAR = 2e-5
"""Largest difference of an update, relative to its norm: float32 on both sides."""

Weights = Mapping[str, Tensor]
Updates = dict[str, Tensor]


def small_unet() -> UNet2DConditionModel:
    """The blocks of Stable Diffusion 1 in full number, and narrow: names are its own."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )


@dataclass(frozen=True)
class Trained:
    """An export, and what it must do.

    Attributes:
        folder: Its files.
        updates: kohya's name of a layer -> the change of its weight, as peft merges it.
    """

    folder: Path
    updates: Updates


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    return {name: train(name, tmp_path_factory.mktemp(name)) for name in TYPES}


def train(name: str, folder: Path, r: int = R) -> Trained:
    parts: dict[str, nn.Module] = {"unet": small_unet(), "text_encoder": tiny_text_encoder()}
    updates: Updates = {}
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_text_model_")):
        module, convolutions = parts[part], ("conv1", "conv_shortcut", "conv", "proj_in")
        targets = (*ATTENTION[part], *(convolutions if part == "unet" and name != "oft" else ()))
        spec = LoraSpec(r, ALPHA, 0.0, targets, type=name, decompose_factor=2, oft_block_size=8)
        before = {key: value.clone() for key, value in module.state_dict().items()}
        randomise(add_lora(module, spec, seed=1))
        with merged(module):
            for key, value in module.state_dict().items():
                if key.endswith(".base_layer.weight"):
                    layer = key.removesuffix(".base_layer.weight")
                    own = layer.removeprefix("text_model.").replace(".", "_")
                    updates[prefix + own] = value.clone() - before[f"{layer}.weight"]
    metadata = {"ss_base_model_version": "sd_v1"}
    export_lora(folder / "x", parts=parts, names=SD.trainable, metadata=metadata, name="face")
    return Trained(folder / "x", updates)


def layers_of(weights: Weights, ends: str) -> dict[str, dict[str, Tensor]]:
    """Layer -> end -> tensor of the keys whose end is one of these."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        layer, _, end = key.partition(".")
        if re.fullmatch(ends, end):
            found.setdefault(layer, {})[end] = value
    return found


def scaled(update: Tensor, t: Mapping[str, Tensor], rank: int | None) -> Tensor:
    """``alpha / rank``; without either there is no scale."""
    if rank is None or "alpha" not in t:
        return update
    return update * (t["alpha"].item() / rank)


def low_rank(t: Mapping[str, Tensor]) -> Tensor:
    up, down = t["lora_up.weight"], t["lora_down.weight"]
    return scaled(up.flatten(1) @ down.flatten(1), t, down.shape[0])


def hadamard(t: Mapping[str, Tensor]) -> Tensor:
    one, two = (t[f"hada_w{n}_a"] @ t[f"hada_w{n}_b"] for n in "12")
    return scaled(one * two, t, t["hada_w1_b"].shape[0])


def kronecker(t: Mapping[str, Tensor]) -> Tensor:
    rank = t["lokr_w2_b"].shape[0] if "lokr_w2_b" in t else None
    right = t["lokr_w2"] if "lokr_w2" in t else t["lokr_w2_a"] @ t["lokr_w2_b"]
    left = t["lokr_w1"].reshape(*t["lokr_w1"].shape, *[1] * (right.ndim - 2))
    return scaled(torch.kron(left, right), t, rank)


LORA = r"lora_(up|down)\.weight|alpha"
LOHA = r"hada_w[12]_[ab]|alpha"
LOKR = r"lokr_w1|lokr_w2(_[ab])?|alpha"


@dataclass(frozen=True)
class Rule:
    """How a program reads a file.

    Attributes:
        knows: kohya's name of a layer -> whether the program finds that layer of the base. What it
            does not find, each program passes over with a line in its log.
        kinds: Ends of keys -> formula.
        needs_kind: Whether a layer that it finds, of a kind that it does not know, is an error.
        identifies: File -> whether it sees which base the file is for; else it does not take it.
    """

    knows: Callable[[str], bool]
    kinds: Mapping[str, Callable[[Mapping[str, Tensor]], Tensor]]
    needs_kind: bool = False
    identifies: Callable[[Weights], bool] = lambda weights: True

    def read(self, weights: Weights) -> tuple[Updates, int]:
        """Updates by kohya's name, and the number of tensors that were used."""
        if not self.identifies(weights):
            raise KeyError("of an unknown base")
        updates, used = {}, 0
        for ends, formula in self.kinds.items():
            for layer, tensors in layers_of(weights, ends).items():
                if self.knows(layer) and len(tensors) > 1:
                    updates[layer] = formula(tensors)
                    used += len(tensors)
        found = {key.partition(".")[0] for key in weights}
        if self.needs_kind and any(self.knows(layer) for layer in found - updates.keys()):
            raise KeyError("a layer of an unknown kind")
        return updates, used


def diffusers_names(*inside: str) -> set[str]:
    """All layers with a weight, with ``_`` for dots.

    Args:
        inside: Only those in modules of these classes; all if there are none.
    """
    found = set()
    for prefix, module in (
        ("lora_unet_", small_unet()),
        ("lora_te_text_model_", tiny_text_encoder()),
    ):
        for name, owner in module.named_modules():
            if type(owner).__name__ not in inside and (inside or name):
                continue
            for child, layer in owner.named_modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    own = ".".join(each for each in (name, child) if each)
                    found.add(prefix + own.removeprefix("text_model.").replace(".", "_"))
    return found


NAMES = diffusers_names()

_CLIP = re.compile(r"lora_te_text_model_encoder_layers_\d+_(self_attn_(q|k|v|out)_proj|mlp_fc[12])")


def comfyui_knows(layer: str) -> bool:
    """Its map of names: the U-Net's of diffusers, and six layers of each of CLIP's blocks.

    Source: comfyanonymous/ComfyUI ``comfy/lora.py`` (``model_lora_keys_unet``,
    ``model_lora_keys_clip``).
    """
    return layer in NAMES and (layer.startswith("lora_unet_") or bool(_CLIP.fullmatch(layer)))


_RESNET = "conv1|conv2|conv_shortcut|time_emb_proj"
_AROUND = (
    r"conv_in|conv_out|time_embedding_linear_[12]|(down|up)_blocks_[012]_(down|up)samplers_0_conv"
)


def a1111_knows(layer: str) -> bool:
    """Its regular expressions, which turn diffusers' blocks into those of the original code.

    ``input_blocks`` 1 to 11 and ``output_blocks`` 0 to 11 are three in each of four blocks; the
    lowest has no attention.

    Source: AUTOMATIC1111/stable-diffusion-webui ``extensions-builtin/Lora/networks.py``
    (``convert_diffusers_name_to_compvis``).
    """
    if found := re.fullmatch(
        r"lora_unet_(down|up)_blocks_(\d)_(attentions|resnets)_(\d)_(.+)", layer
    ):
        way, block, what, number, rest = found.groups()
        index = (1 if way == "down" else 0) + 3 * int(block) + int(number)
        has_attention = index < 9 if way == "down" else index > 2
        fits = index <= 11 and int(number) <= (1 if way == "down" else 2)
        if what == "resnets":
            return fits and re.fullmatch(_RESNET, rest) is not None
        return fits and has_attention and layer in NAMES
    if re.fullmatch(rf"lora_unet_(mid_block_(attentions|resnets)_\d_.+|{_AROUND})", layer):
        return layer in NAMES
    return bool(re.fullmatch(r"lora_te_text_model_encoder_layers_\d+_.+", layer)) and layer in NAMES


def invokeai_finds(layer: str) -> bool:
    """It goes down the modules of diffusers' model by the parts of the name.

    Source: invoke-ai/InvokeAI ``invokeai/backend/patches/layer_patcher.py`` (``_get_submodule``).
    """
    return layer in NAMES


def invokeai_identifies(weights: Weights) -> bool:
    """It tells the base by the inputs of a layer behind the text encoder, else of the encoder.

    They stand in the first matrix; of a LoKr only where both matrices are whole, since it looks
    for the name of the factors without its dot.

    Source: invoke-ai/InvokeAI ``invokeai/backend/model_manager/util/model_util.py``
    (``lora_token_vector_length``), ``model_manager/configs/lora.py`` (``_get_base_or_raise``).
    """
    width = 16  # of the small base's text encoder; 768 of Stable Diffusion 1
    for key in weights:
        layer, _, end = key.partition(".")
        if not re.search(r"^lora_unet_.*_attn2_to_[kv]$|^lora_te_.*_self_attn_", layer):
            continue
        found = None
        if end in ("lora_down.weight", "hada_w1_b", "hada_w2_b", "diff"):
            found = weights[key].shape[1]
        elif end.startswith("lokr_") and {f"{layer}.lokr_w1", f"{layer}.lokr_w2"} <= weights.keys():
            found = weights[f"{layer}.lokr_w1"].shape[1] * weights[f"{layer}.lokr_w2"].shape[1]
        if found is not None:
            return found == width
    return False


SD_SCRIPTS = diffusers_names(
    *("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"),
    *("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"),
)
"""Source: kohya-ss/sd-scripts ``networks/lora.py`` (``LoRANetwork``, ``*_TARGET_REPLACE_MODULE``);
its ``load_weights`` is not strict."""

ALL = {LORA: low_rank, LOHA: hadamard, LOKR: kronecker}
RULES = {
    "ComfyUI": Rule(comfyui_knows, ALL),
    "A1111": Rule(a1111_knows, ALL, needs_kind=True),
    "InvokeAI": Rule(invokeai_finds, ALL, needs_kind=True, identifies=invokeai_identifies),
    "sd-scripts": Rule(SD_SCRIPTS.__contains__, {LORA: low_rank}),
}
"""Sources of formulas and errors, in these repositories: ComfyUI ``comfy/weight_adapter/lora.py``,
``loha.py``, ``lokr.py``; A1111 ``extensions-builtin/Lora/network.py`` (``calc_scale``),
``network_lora.py``, ``network_hada.py``, ``network_lokr.py``, ``networks.py`` (``load_network``);
InvokeAI ``invokeai/backend/patches/layers/lora_layer_base.py`` (``scale``), ``lora_layer.py``,
``loha_layer.py``, ``lokr_layer.py``, ``utils.py``."""


def faults(rule: Rule, weights: Weights, expected: Updates, share: float = NEAR) -> list[str]:
    """What is wrong with a file for a program, one line each."""
    try:
        updates, used = rule.read(weights)
    except (KeyError, RuntimeError) as error:
        return [f"refused: {error}"]
    wrong = [f"{used} of {len(weights)} tensors used"] * (used != len(weights))
    wrong += sorted(expected.keys() ^ updates.keys())
    for layer in expected.keys() & updates.keys():
        off = updates[layer].float().reshape(expected[layer].shape) - expected[layer]
        if not off.norm() <= share * expected[layer].norm():
            wrong.append(f"{layer}: {float(off.norm() / expected[layer].norm()):.2g} off")
    return wrong


@pytest.mark.parametrize("program", RULES)
@pytest.mark.parametrize("name", TYPES)
def test_a_program_reads_the_file_that_it_is_told(
    name: str, program: str, trained: dict[str, Trained]
) -> None:
    found = trained[name]
    is_native = name == "lora" or (program != "sd-scripts" and name != "oft")
    native = load_file(found.folder / "face.safetensors")
    assert bool(faults(RULES[program], native, found.updates)) != is_native
    if name == "lora":
        return
    file = found.folder / "face_plain.safetensors"
    limit = 1e-3 + 8 * float(read_metadata(file)[MISSING])  # fp16; a layer may lack more than all
    assert faults(RULES[program], load_file(file), found.updates, limit) == []


def test_a_lokr_of_factors_alone_names_no_base_to_invokeai(tmp_path: Path) -> None:
    weights = load_file(train("lokr", tmp_path, r=1).folder / "face.safetensors")
    assert not any(key.endswith(("to_k.lokr_w2", "q_proj.lokr_w2")) for key in weights)
    assert invokeai_identifies(load_file(tmp_path / "x" / "face_plain.safetensors"))
    assert not invokeai_identifies(weights)


def matrix(key: str) -> bool:
    """The matrix of a layer that alpha is folded into."""
    return key.endswith(("lora_up.weight", "hada_w2_b", "lokr_w1"))


def with_first(weights: Weights, name: Callable[[str], str]) -> dict[str, Tensor]:
    """Another name for the first layer."""
    first = min(key.partition(".")[0] for key in weights)
    return {(name(k) if k.partition(".")[0] == first else k): v for k, v in weights.items()}


MUTANTS: dict[str, Callable[[Weights], Weights]] = {
    "the scale the other way round": lambda w: {
        k: v * (R / ALPHA) ** 2 if matrix(k) else v for k, v in w.items()
    },
    "alpha lost before it was folded": lambda w: {
        k: v * (R / ALPHA) if matrix(k) else v for k, v in w.items()
    },
    "alpha twice": lambda w: {
        k: v * (ALPHA / R) if k.endswith("alpha") or matrix(k) else v for k, v in w.items()
    },
    "a renamed layer": lambda w: with_first(w, lambda key: key.replace("_to_", "_into_").replace(
        "_q_proj", "_query").replace("_k_proj", "_key").replace("_v_proj", "_value")),
    "names of another family": lambda w: {
        k.replace("lora_unet_down_blocks_0_attentions", "lora_unet_double_blocks"): v
        for k, v in w.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("name", ["lora", "loha", "lokr"])
def test_each_mutant_is_found_by_every_program(
    name: str, mutant: str, trained: dict[str, Trained]
) -> None:
    found = trained[name]
    weights = MUTANTS[mutant](load_file(found.folder / "face.safetensors"))
    for program, rule in RULES.items():
        assert faults(rule, weights, found.updates), program


def turned(t: Mapping[str, Tensor], weight: Tensor, sign: int = 1) -> Tensor:
    """OFT of a linear layer: its inputs turned, by Cayley's series.

    Source: Nerogar/OneTrainer ``modules/module/oft_utils.py``, ``modules/module/LoRAModule.py``
    (``OFTModule``); huggingface/peft ``tuners/oft/layer.py``.
    """
    stored = t["oft_R.weight"].double()
    side = round((1 + (1 + 8 * stored.shape[1]) ** 0.5) / 2)
    rows, columns = torch.triu_indices(side, side, 1)
    turns = []
    for numbers in stored:
        skew = torch.zeros(side, side, dtype=torch.float64)
        skew[rows, columns] = sign * numbers
        skew -= skew.T.clone()
        powers = [torch.linalg.matrix_power(skew, n) for n in range(5)]
        turns.append(powers[0] + 2 * (powers[1] + powers[2] + powers[3]) + powers[4])
    return weight.double() @ torch.block_diag(*turns).T - weight.double()


def test_an_oft_turns_inputs_as_onetrainer_does(trained: dict[str, Trained]) -> None:
    found = trained["oft"]
    weights = load_file(found.folder / "face.safetensors")
    own = {
        prefix + name.removeprefix("text_model.").replace(".", "_"): layer.weight
        for prefix, module in (
            ("lora_unet_", small_unet()),
            ("lora_te_text_model_", tiny_text_encoder()),
        )
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }
    layers = layers_of(weights, r"oft_R\.weight")  # of names that its load_lora_util.py unflattens
    assert layers.keys() == found.updates.keys()
    assert sum(map(len, layers.values())) == len(weights)
    for layer, tensors in layers.items():
        expected = found.updates[layer].double()
        off = turned(tensors, own[layer].detach()) - expected
        assert off.norm() < NEAR * expected.norm()
        mirrored = turned(tensors, own[layer].detach(), sign=-1) - expected
        assert mirrored.norm() > 0.1 * expected.norm()
