"""What other programs make of exported files, by their own rules, rewritten from their sources.

A rule maps keys to layers and gives the update of each weight. It must use every tensor of its file
and give the trained update; and each mutant of the file must turn it red. diffusers and peft are no
rules here: the libraries themselves read the files in ``test_export.py`` and
``test_export_of_types.py``.

Sources: comfyanonymous/ComfyUI ``comfy/lora.py``, ``comfy/weight_adapter``; AUTOMATIC1111
``extensions-builtin/Lora/networks.py``, ``network_*.py``; invoke-ai/InvokeAI
``backend/patches``; kohya-ss/sd-scripts ``networks/lora.py``; Nerogar/OneTrainer ``LoRAModule.py``.
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
from sdlora.adapters.lora import add_lora, merged
from sdlora.adapters.spec import LoraSpec
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


def train(name: str, folder: Path) -> Trained:
    parts: dict[str, nn.Module] = {"unet": small_unet(), "text_encoder": tiny_text_encoder()}
    updates: Updates = {}
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_text_model_")):
        module, convolutions = parts[part], ("conv1", "conv_shortcut", "proj_in")
        targets = (*ATTENTION[part], *(convolutions if part == "unet" and name != "oft" else ()))
        spec = LoraSpec(R, ALPHA, 0.0, targets, type=name, decompose_factor=2, oft_block_size=8)
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
        name: Its name for a layer -> whether the base has it.
        kinds: Ends of keys -> formula.
        is_strict: Whether what it does not know is an error, and not passed over.
    """

    knows: Callable[[str], bool]
    kinds: Mapping[str, Callable[[Mapping[str, Tensor]], Tensor]]
    is_strict: bool = False

    def read(self, weights: Weights) -> tuple[Updates, int]:
        """Updates by kohya's name, and the number of tensors that were used."""
        updates, used = {}, 0
        for ends, formula in self.kinds.items():
            for layer, tensors in layers_of(weights, ends).items():
                if self.knows(layer) and len(tensors) > 1:
                    updates[layer] = formula(tensors)
                    used += len(tensors)
        if self.is_strict and used != len(weights):
            raise KeyError("unexpected keys")
        return updates, used


def diffusers_names() -> set[str]:
    """All layers with a weight, with ``_`` for dots: the map of ComfyUI, InvokeAI, sd-scripts."""
    found = set()
    for prefix, module in (
        ("lora_unet_", small_unet()),
        ("lora_te_text_model_", tiny_text_encoder()),
    ):
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                found.add(prefix + name.removeprefix("text_model.").replace(".", "_"))
    return found


NAMES = diffusers_names()

_RESNET = "conv1|conv2|conv_shortcut|time_emb_proj"


def a1111_knows(layer: str) -> bool:
    """Its regular expressions, which turn diffusers' blocks into those of the original code.

    ``input_blocks`` 1 to 11 and ``output_blocks`` 0 to 11 are three in each of four blocks; the
    lowest has no attention.
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
    if found := re.fullmatch(r"lora_unet_mid_block_(attentions|resnets)_(\d)_(.+)", layer):
        return layer in NAMES
    return bool(re.fullmatch(r"lora_te_text_model_encoder_layers_\d+_.+", layer)) and layer in NAMES


def is_known(layer: str) -> bool:
    return layer in NAMES


ALL = {LORA: low_rank, LOHA: hadamard, LOKR: kronecker}
RULES = {
    "ComfyUI": Rule(is_known, ALL),
    "A1111": Rule(a1111_knows, ALL),
    "InvokeAI": Rule(is_known, ALL, is_strict=True),
    "sd-scripts": Rule(is_known, {LORA: low_rank}, is_strict=True),
}


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
    """OneTrainer's and peft's OFT of a linear layer: its inputs turned, by Cayley's series."""
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
    layers = layers_of(weights, r"oft_R\.weight")
    assert layers.keys() == found.updates.keys()
    assert sum(map(len, layers.values())) == len(weights)
    for layer, tensors in layers.items():
        expected = found.updates[layer].double()
        off = turned(tensors, own[layer].detach()) - expected
        assert off.norm() < NEAR * expected.norm()
        mirrored = turned(tensors, own[layer].detach(), sign=-1) - expected
        assert mirrored.norm() > 0.1 * expected.norm()
