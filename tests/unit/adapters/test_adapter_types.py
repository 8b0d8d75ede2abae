"""LoHa, LoKr and OFT on a model: start, strength, merging, loading, and the sizes that fit."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sdlora.adapters.file_writing import adapters_of
from sdlora.adapters.formats import restore_lora
from sdlora.adapters.lora import add_lora, lora_parameters, lora_state_dict
from sdlora.adapters.oft import refuse_unfit_blocks
from sdlora.adapters.spec import LoraError, LoraSpec
from sdlora.adapters.strength import disabled, merged, set_scale
from tests.unit.adapters.tiny_models import (
    ATTENTION,
    EVERYTHING,
    outputs,
    randomise,
    tiny_text_encoder,
    tiny_unet,
)

TYPES = ("loha", "lokr", "oft")

ROUNDED = 5e-6
"""float32 in another order."""


def adapted(name: str, module: nn.Module, part: str, seed: int = 1, **spec: object) -> nn.Module:
    """A part with a new adapter; OFT on linear layers alone."""
    targets = (ATTENTION if name == "oft" else EVERYTHING)[part]
    values: dict = {"r": 4, "alpha": 6.0, "dropout": 0.0, "targets": targets, "type": name}
    values |= {"oft_block_size": 8, "decompose_factor": 4, **spec}
    return add_lora(module, LoraSpec(**values), seed)


def both(name: str, *, moved: bool = True, seed: int = 1) -> dict[str, nn.Module]:
    parts = {
        "unet": adapted(name, tiny_unet(), "unet", seed),
        "text_encoder": adapted(name, tiny_text_encoder(), "text_encoder", seed),
    }
    return {part: randomise(each) if moved else each for part, each in parts.items()}


def drawn(parts: dict[str, nn.Module]) -> torch.Tensor:
    return outputs(parts["unet"], parts["text_encoder"])


@pytest.mark.parametrize("name", TYPES)
def test_a_new_one_changes_nothing_and_follows_its_seed_alone(name: str) -> None:
    torch.manual_seed(5)
    one = both(name, moved=False)
    before = torch.random.get_rng_state()
    assert torch.equal(drawn(one), outputs(tiny_unet(), tiny_text_encoder()))
    torch.manual_seed(99)
    again, other = both(name, moved=False), both(name, moved=False, seed=2)
    states = [lora_state_dict(each["unet"]) for each in (one, again, other)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    same = all(torch.equal(value, states[2][key]) for key, value in states[0].items())
    assert same == (name == "oft")  # all of it begins at zero
    torch.random.set_rng_state(before)
    one["unet"].train()(torch.zeros(1, 4, 8, 8), torch.tensor([1]), torch.zeros(1, 8, 16))
    assert torch.equal(torch.random.get_rng_state(), before)  # peft's own layers draw


@pytest.mark.parametrize("name", TYPES)
def test_strength_is_linear_in_the_weights_merged_or_not(name: str) -> None:
    parts, base = both(name), outputs(tiny_unet(), tiny_text_encoder())
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    own: Any = dict(parts["unet"].named_modules())[layer]
    weight = own.get_base_layer().weight
    plain = weight.detach().clone()
    changes = []
    for strength in (1.0, 0.5, -2.0, 0.0):
        for part in parts.values():
            set_scale(part, strength)
        beside = drawn(parts)
        with merged(parts["unet"]), merged(parts["text_encoder"]):
            changes.append(weight.detach() - plain)
            torch.testing.assert_close(drawn(parts), beside, rtol=0, atol=ROUNDED)
        assert torch.equal(weight, plain)
    whole, half, turned, none = changes
    assert whole.abs().max() > 0.01
    torch.testing.assert_close(half, 0.5 * whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(turned, -2 * whole, rtol=0, atol=1e-6)
    assert not none.any()
    assert torch.equal(drawn(parts), base)
    for part in parts.values():
        set_scale(part, 1.0)
    with disabled(*parts.values()):
        assert torch.equal(drawn(parts), base)


@pytest.mark.parametrize("name", TYPES)
def test_gradients_reach_the_adapter_alone(name: str) -> None:
    unet = adapted(name, tiny_unet(), "unet").train()
    out = unet(torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 8, 16)).sample
    out.square().sum().backward()
    own = lora_parameters(unet)
    assert {id(p) for p in unet.parameters() if p.requires_grad} == {id(p) for p in own.values()}
    assert any(p.grad is not None and p.grad.any() for p in own.values())


def test_parameters_of_each_type_by_hand() -> None:
    """A layer of 16 outputs and 16 inputs: what docs/lora.md says that each costs."""
    q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    sizes = {}
    for name in ("lora", *TYPES):
        unet = adapted(name, tiny_unet(), "unet", targets=(q,))
        sizes[name] = sum(each.numel() for each in lora_parameters(unet).values())
    assert sizes["lora"] == 4 * (16 + 16)
    assert sizes["loha"] == 2 * 4 * (16 + 16)
    assert sizes["lokr"] == 4 * 4 + 4 * 4  # r = 4 is more than half of 16 / 4: both are whole
    assert sizes["oft"] == 2 * 8 * 7 / 2
    low = adapted("lokr", tiny_unet(), "unet", targets=(q,), r=1, decompose_factor=2)
    assert sum(each.numel() for each in lora_parameters(low).values()) == 2 * 2 + 1 * (8 + 8)


def test_sizes_that_do_not_fit_are_refused_with_one_that_does() -> None:
    with pytest.raises(LoraError, match="OFT turns the inputs of Linear layers only"):
        adapted("oft", tiny_unet(), "unet", targets=("conv1",))
    with pytest.raises(LoraError, match=r"oft_block_size=12: .* set lora.oft_block_size=8$"):
        adapted("oft", tiny_unet(), "unet", oft_block_size=12)
    adapted("oft", tiny_unet(), "unet", oft_block_size=8)


@pytest.mark.parametrize(
    ("widths", "size", "told"),
    [
        ((9, 27), 4, "set lora.oft_block_size=3"),
        ((9, 27), 2, "set lora.oft_block_size=3"),  # none below fits
        ((9, 18, 16), 4, "0 has 9 inputs, 2 16, and no size divides .* set lora.type=lora"),
        ((6, 10, 15), 2, "2 has 15 inputs, 0 6, and no size divides"),
        ((320, 768), 40, "1 has 768 inputs, .* set lora.oft_block_size=32"),
    ],
)
def test_the_remedy_of_a_block_size_can_be_followed(
    widths: tuple[int, ...], size: int, told: str
) -> None:
    named = {str(index): width for index, width in enumerate(widths)}
    with pytest.raises(LoraError, match=told):
        refuse_unfit_blocks(named, size)
    if "block_size=" in told:
        refuse_unfit_blocks(named, int(told.rpartition("=")[2]))


@pytest.mark.parametrize("name", TYPES)
def test_a_copy_of_a_part_is_whole(name: str) -> None:
    unet = randomise(adapted(name, tiny_unet(), "unet"))
    twin = copy.deepcopy(unet)
    set_scale(twin, 0.5)
    assert not torch.equal(outputs(twin), outputs(unet))
    set_scale(twin, 1.0)
    assert torch.equal(outputs(twin), outputs(unet))


def test_a_file_of_another_type_is_not_restored() -> None:
    loha = adapters_of({"unet": adapted("loha", tiny_unet(), "unet")}, {})
    with pytest.raises((LoraError, KeyError)):
        restore_lora({"unet": adapted("lokr", tiny_unet(), "unet")}, loha)
