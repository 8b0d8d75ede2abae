"""Ranks and alphas by name pattern."""

import pytest
import torch
from torch import nn

from sdlora.adapters.layer_names import by_pattern, target_layers
from sdlora.adapters.lora import adapted_layers, add_lora
from sdlora.adapters.spec import LoraError, LoraSpec
from tests.unit.adapters.tiny_models import tiny_unet

NAMES = ["conv_in", "down.0.attn1.to_q", "down.0.attn2.to_q", "up.1.attn1.to_k", "up.1.conv_in"]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("to_q", [1, 2]),  # an end
        ("attn1", [1, 3]),  # what a layer lies in
        ("down.*.attn1", [1]),
        ("down", [1, 2]),
        ("*.to_?", [1, 2, 3]),
        ("to_[k]", [3]),
        ("*", [0, 1, 2, 3, 4]),
        ("conv_in", [0]),  # a full name: that layer alone
        ("*.conv_in", [4]),
        ("attn", []),  # half a word
        ("to_q.down", []),
    ],
)
def test_a_pattern_is_part_of_a_name(pattern: str, matched: list[int]) -> None:
    found, unused = by_pattern(NAMES, {pattern: 1})
    assert list(found) == [NAMES[index] for index in matched]
    assert unused == ([] if matched else [pattern])


def test_the_later_pattern_wins() -> None:
    assert by_pattern(NAMES[:3], {"attn1": 1, "to_q": 2})[0] == dict.fromkeys(NAMES[1:3], 2)
    found, _ = by_pattern(NAMES[:3], {"to_q": 2, "attn1": 1})
    assert found == {NAMES[1]: 1, NAMES[2]: 2}


def test_ranks_and_alphas_by_pattern() -> None:
    spec = LoraSpec(
        r=4,
        alpha=6.0,
        dropout=0.0,
        targets=("to_q", "to_k"),
        rank_pattern={"down_blocks.*.attn1": 2, "mid_block": 3},
        alpha_pattern={"to_k": 5.0},
    )
    layers = adapted_layers(add_lora(tiny_unet(), spec, seed=0))
    for name, (r, alpha) in layers.items():
        in_first_half = name.startswith("down_blocks") and "attn1" in name
        assert r == (2 if in_first_half else 3 if name.startswith("mid") else 4)
        assert alpha == (5.0 if name.endswith("to_k") else 6.0)
    assert len(layers) == 4 * 4  # a down, a middle and two up transformers; two layers of each attn


def test_a_pattern_that_matches_no_adapted_layer_is_named() -> None:
    unet = tiny_unet()
    with pytest.raises(LoraError, match=r"^rank_pattern=atn1: matches none .*near names: attn1,"):
        add_lora(unet, LoraSpec(4, 4, 0.0, ("to_q",), rank_pattern={"atn1": 2}), seed=0)
    with pytest.raises(LoraError, match="^alpha_pattern=to_k: matches none of the 8 adapted"):
        add_lora(unet, LoraSpec(4, 4, 0.0, ("to_q",), alpha_pattern={"to_k": 2.0}), seed=0)
    assert all(isinstance(m, torch.nn.Module) for m in unet.modules())
    assert not adapted_layers(unet)


def test_a_target_with_a_star_matches_layers_alone() -> None:
    """Where a name is a layer here and a container there, as in FLUX.2 klein."""
    module = nn.ModuleDict(
        {
            "both": nn.ModuleList([nn.ModuleDict({"to_out": nn.ModuleList([nn.Linear(2, 2)])})]),
            "single": nn.ModuleList([nn.ModuleDict({"to_out": nn.Linear(2, 2)})]),
        }
    )
    assert target_layers(module, ["single.*.to_out"]) == ["single.0.to_out"]
    assert target_layers(module, ["*"]) == ["both.0.to_out.0", "single.0.to_out"]
    assert target_layers(module, ["*.to_out"]) == ["single.0.to_out"]
    assert target_layers(module, ["to_out.0"]) == ["both.0.to_out.0"]
    with pytest.raises(LoraError, match=r"^targets=gle.\*.to_out: no such layer"):
        target_layers(module, ["gle.*.to_out"])  # half a word
    with pytest.raises(LoraError, match=r"ModuleList.*such as to_out.0; .*: single.\*.to_out"):
        target_layers(module, ["to_out"])
