"""An adapter in place: dtype, seed, strict loading, switching off, merging."""

import math
import random

import pytest
import torch
from peft.utils import get_peft_model_state_dict
from torch import nn

from sdlora.adapters.lora import (
    adapted_layers,
    add_lora,
    load_lora_state_dict,
    lora_config,
    lora_parameters,
    lora_state_dict,
)
from sdlora.adapters.spec import LoraError, LoraSpec
from sdlora.adapters.strength import disabled, merge, merged, set_scale
from tests.unit.adapters.tiny_models import (
    ATTENTION,
    EVERYTHING,
    outputs,
    randomise,
    tiny_text_encoder,
    tiny_unet,
    with_lora,
)


def spec(**values: object) -> LoraSpec:
    return LoraSpec(**{"r": 4, "alpha": 6.0, "dropout": 0.0, "targets": ("to_q",), **values})


def test_a_layer_is_the_base_plus_the_scaled_product() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 3), nn.Conv2d(1, 2, 3, bias=False))
    linear, conv = module[0].weight.double(), module[1].weight.double()
    with_lora(module, "all", {"all": ("0", "1")})
    state = {name: value.double() for name, value in lora_state_dict(module).items()}
    x, picture = torch.randn(2, 5), torch.randn(1, 1, 6, 6)

    update = state["0.lora_B.weight"] @ state["0.lora_A.weight"]  # [out, r] [r, in]
    expected = x.double() @ (linear + 6 / 4 * update).T + module[0].bias.double()
    torch.testing.assert_close(module[0](x).double(), expected, rtol=1e-5, atol=1e-5)

    kernel = torch.einsum("or,rikl->oikl", state["1.lora_B.weight"][..., 0, 0],
                          state["1.lora_A.weight"])  # fmt: skip
    expected = nn.functional.conv2d(picture.double(), conv + 6 / 4 * kernel)
    torch.testing.assert_close(module[1](picture).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_dora_layer_is_the_formula_of_the_paper() -> None:
    """m (W + s B A) / |W + s B A|, with the norm of each output's row (arXiv:2402.09353, eq. 5)."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 3))
    weight, bias = module[0].weight.double(), module[0].bias.double()
    with_lora(module, "all", {"all": ("0",)}, use_dora=True)
    state = {name: value.double() for name, value in lora_state_dict(module).items()}
    merged_weight = weight + 6 / 4 * state["0.lora_B.weight"] @ state["0.lora_A.weight"]
    (magnitude,) = (value for name, value in state.items() if "magnitude" in name)
    direction = merged_weight / merged_weight.norm(dim=1, keepdim=True)
    x = torch.randn(2, 5)
    expected = x.double() @ (magnitude[:, None] * direction).T + bias
    torch.testing.assert_close(module[0](x).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_new_adapter_changes_nothing() -> None:
    unet, text_encoder = tiny_unet(), tiny_text_encoder()
    before = outputs(unet, text_encoder)
    add_lora(unet, spec(targets=EVERYTHING["unet"]), seed=0)
    add_lora(text_encoder, spec(targets=EVERYTHING["text_encoder"]), seed=0)
    assert torch.equal(outputs(unet, text_encoder), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("use_dora", [False, True])
def test_lora_weights_are_float32_over_a_16_bit_base(dtype: torch.dtype, use_dora: bool) -> None:
    unet = tiny_unet().to(dtype)
    add_lora(unet, spec(targets=EVERYTHING["unet"], use_dora=use_dora), seed=0)
    trained = {id(p) for p in lora_parameters(unet).values()}
    for parameter in unet.parameters():
        is_lora = id(parameter) in trained
        assert parameter.dtype == (torch.float32 if is_lora else dtype)
        assert parameter.requires_grad == is_lora
    if not use_dora:
        z_t, context = torch.randn(1, 4, 8, 8).to(dtype), torch.randn(1, 3, 16).to(dtype)
        unet(z_t, torch.tensor([5]), context).sample.float().square().sum().backward()
        gradients = [p.grad for name, p in lora_parameters(unet).items() if "lora_B" in name]
        assert all(g is not None and g.dtype == torch.float32 for g in gradients)


@pytest.mark.parametrize("init", ["default", "gaussian"])
def test_the_seed_decides_and_global_randomness_is_untouched(init: str) -> None:
    def fresh(seed: int, dtype: torch.dtype = torch.float32, targets=("to_q", "to_k")) -> dict:
        unet = tiny_unet().to(dtype)
        before = torch.get_rng_state(), random.getstate()
        add_lora(unet, spec(targets=targets, init=init), seed=seed)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        return lora_state_dict(unet)

    first = fresh(5)
    torch.manual_seed(123)
    again, other = fresh(5), fresh(6)
    a_keys = [key for key in first if "lora_A" in key]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in a_keys)
    assert all(not first[key].any() for key in first if "lora_B" in key)
    assert all(torch.equal(first[key], fresh(5, torch.bfloat16)[key]) for key in a_keys[:1])
    fewer = fresh(5, targets=("to_k",))  # a layer's start does not hang on the other layers
    assert fewer
    assert all(torch.equal(first[key], value) for key, value in fewer.items())
    widest = max(a_keys, key=lambda key: first[key].numel())
    fan_in = first[widest].shape[1]
    # U(-b, b) with b = 1 / sqrt(fan_in) has std b / sqrt(3); N(0, 1/r^2) has std 1/r; n >= 64
    std = 1 / math.sqrt(3 * fan_in) if init == "default" else 1 / 4
    assert first[widest].std().item() == pytest.approx(std, rel=0.3)


def test_raw_keys_are_those_of_peft() -> None:
    for use_dora in (False, True):
        unet = add_lora(tiny_unet(), spec(targets=EVERYTHING["unet"], use_dora=use_dora), seed=0)
        theirs, ours = get_peft_model_state_dict(unet), lora_state_dict(unet)
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key]) for key in ours)


def test_alpha_and_rank_of_each_layer() -> None:
    unet = add_lora(
        tiny_unet(),
        spec(
            targets=("to_q", "to_k"),
            rank_pattern={"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 2},
            alpha_pattern={"to_k": 3.0},
        ),
        seed=0,
    )
    layers = adapted_layers(unet)
    assert layers["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"] == (2, 6.0)
    assert layers["mid_block.attentions.0.transformer_blocks.0.attn2.to_q"] == (4, 6.0)
    assert layers["mid_block.attentions.0.transformer_blocks.0.attn2.to_k"] == (4, 3.0)
    stabilised = add_lora(tiny_unet(), spec(use_rslora=True), seed=0)
    assert set(adapted_layers(stabilised).values()) == {(4, 6.0 * 2)}  # alpha sqrt(r)


def test_targets_that_match_nothing_are_named() -> None:
    with pytest.raises(LoraError, match=r"targets=to_qq: no such layer .* did you mean to_q\?"):
        add_lora(tiny_unet(), spec(targets=("to_k", "to_qq")), seed=0)
    with pytest.raises(LoraError, match="is a ModuleList.*to_out.0"):
        add_lora(tiny_unet(), spec(targets=("to_out",)), seed=0)
    with pytest.raises(LoraError, match="has an adapter already"):
        add_lora(add_lora(tiny_unet(), spec(), seed=0), spec(), seed=0)


def test_weights_go_round_exactly() -> None:
    unet = with_lora(tiny_unet(), "unet", EVERYTHING)
    other = add_lora(tiny_unet(), spec(targets=EVERYTHING["unet"]), seed=7)
    assert not torch.equal(outputs(other), outputs(unet))
    load_lora_state_dict(other, lora_state_dict(unet))
    assert torch.equal(outputs(other), outputs(unet))


def test_what_does_not_fit_is_listed_and_nothing_is_loaded() -> None:
    unet = add_lora(tiny_unet(), spec(), seed=0)
    before = lora_state_dict(unet)
    state = {key: value + 1 for key, value in before.items()}
    missing, narrow = list(state)[0], list(state)[1]
    del state[missing]
    state[narrow] = torch.zeros(7, 3)
    state["nowhere.lora_A.weight"] = torch.zeros(2, 2)
    with pytest.raises(LoraError) as caught:
        load_lora_state_dict(unet, state)
    text = str(caught.value)
    assert f"missing: {missing}" in text
    assert "unexpected: nowhere.lora_A.weight" in text
    assert f"{narrow}: shape [7, 3] in the file, {list(before[narrow].shape)}" in text
    assert all(torch.equal(value, before[key]) for key, value in lora_state_dict(unet).items())


def test_the_state_is_a_copy() -> None:
    unet = with_lora(tiny_unet(), "unet", ATTENTION)
    kept = lora_state_dict(unet)
    randomise(unet, seed=10)
    assert not any(torch.equal(kept[key], value) for key, value in lora_state_dict(unet).items())


def test_disabled_is_the_base_and_gives_all_back() -> None:
    unet = tiny_unet()
    base = outputs(unet)
    with_lora(unet, "unet", ATTENTION)
    tuned = outputs(unet)
    frozen = next(iter(lora_parameters(unet).values())).requires_grad_(False)
    with disabled(unet), disabled(unet):
        assert torch.equal(outputs(unet), base)
    assert torch.equal(outputs(unet), tuned)
    assert [p.requires_grad for p in lora_parameters(unet).values()].count(False) == 1
    assert not frozen.requires_grad
    with pytest.raises(RuntimeError, match="stop"), disabled(unet):
        raise RuntimeError("stop")
    assert torch.equal(outputs(unet), tuned)
    with disabled(unet):
        with disabled(unet):
            pass
        assert torch.equal(outputs(unet), base)
    with disabled(tiny_text_encoder()):  # nothing to switch off is fine
        pass


def test_scale() -> None:
    unet = tiny_unet()
    base = outputs(unet)
    with_lora(unet, "unet", ATTENTION)
    tuned = outputs(unet)
    set_scale(unet, 0.0)
    assert torch.equal(outputs(unet), base)
    set_scale(unet, 0.5)
    assert not torch.equal(outputs(unet), tuned)
    twice = with_lora(tiny_unet(), "unet", ATTENTION, alpha=3.0)
    assert torch.equal(outputs(unet), outputs(twice))
    set_scale(unet, 1.0)
    assert torch.equal(outputs(unet), tuned)
    with pytest.raises(LoraError, match="finite"):
        set_scale(unet, math.nan)


@pytest.mark.parametrize("use_dora", [False, True])
def test_merged_gives_the_same_and_puts_the_base_back_exactly(use_dora: bool) -> None:
    unet = tiny_unet()
    base = {name: value.clone() for name, value in unet.state_dict().items()}
    with_lora(unet, "unet", EVERYTHING, use_dora=use_dora)
    tuned = outputs(unet)
    for _ in range(2):
        with merged(unet):
            # one product instead of two, in float32, through some ten layers
            torch.testing.assert_close(outputs(unet), tuned, rtol=1e-3, atol=1e-3)
            with pytest.raises(LoraError, match="merged"), disabled(unet):
                pass
            with pytest.raises(LoraError, match="merged"):
                set_scale(unet, 0.5)
        assert torch.equal(outputs(unet), tuned)
    after = {n.replace(".base_layer", ""): v for n, v in unet.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in base.items())
    merge(unet)
    torch.testing.assert_close(outputs(unet), tuned, rtol=1e-3, atol=1e-3)


def test_without_an_adapter_there_is_nothing() -> None:
    assert lora_parameters(tiny_unet()) == {}
    with pytest.raises(LoraError, match="has no adapter"):
        lora_config(tiny_unet())
