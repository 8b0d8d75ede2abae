"""PiSSA and OLoRA: what peft computes, around a base that stays what it was."""

import math

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from sdlora.adapters.lora import (
    adapted_layers,
    add_lora,
    load_written,
    lora_config,
    lora_parameters,
    lora_state_dict,
)
from sdlora.adapters.spec import LoraError, LoraSpec
from sdlora.adapters.start import drawn_start
from sdlora.adapters.strength import disabled, merged, set_scale
from sdlora.runtime.randomness import generator
from tests.unit.adapters.tiny_models import EVERYTHING, outputs, randomise, tiny_unet

INITS = ("pissa", "olora")


def spec(init: str, **values: object) -> LoraSpec:
    known = {"r": 3, "alpha": 4.5, "dropout": 0.0, "targets": ("0", "1")}
    return LoraSpec(**{**known, "init": init, **values})


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Conv2d(2, 6, 3, bias=False))


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("use_rslora", [False, True])
def test_a_linear_layer_starts_as_in_peft(init: str, use_rslora: bool) -> None:
    ours, theirs = layers()[:1], layers()[:1]
    base = ours[0].weight.detach().clone()
    add_lora(ours, spec(init, targets=("0",), use_rslora=use_rslora), seed=0)
    config = LoraConfig(
        r=3, lora_alpha=4.5, target_modules=["0"], init_lora_weights=init, use_rslora=use_rslora
    )
    inject_adapter_in_model(config, theirs)
    for name, value in lora_parameters(theirs).items():
        # the same functions on the same numbers; 1e-6: B's and A's factors in another order
        torch.testing.assert_close(lora_parameters(ours)[name], value, rtol=1e-5, atol=1e-6)
    scale = 4.5 / (math.sqrt(3) if use_rslora else 3)
    a, b = lora_parameters(ours).values()
    residual = base - scale * b @ a
    torch.testing.assert_close(theirs[0].base_layer.weight, residual, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours[0].base_layer.weight, base)  # peft has changed its own


@pytest.mark.parametrize("init", INITS)
def test_the_first_step_is_that_of_the_formula(init: str) -> None:
    """One step of gradient descent on layers of both kinds, against float64 by autograd."""
    module, x, picture = layers(), torch.randn(4, 7), torch.randn(2, 2, 5, 5)
    weights = [layer.weight.detach().double() for layer in module]
    bias = module[0].bias.detach().double()
    before = module[0](x), module[1](picture)
    add_lora(module, spec(init), seed=0)
    after = module[0](x), module[1](picture)
    for found, expected in zip(after, before, strict=True):  # W + s B A - s B A
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    trained = {n: p.detach().double().requires_grad_() for n, p in lora_parameters(module).items()}
    start = {name: value.detach().clone() for name, value in trained.items()}

    def effective(index: int) -> torch.Tensor:
        a, b = (f"{index}.lora_{matrix}.weight" for matrix in "AB")
        product = [w[b].flatten(1) @ w[a].flatten(1) for w in (trained, start)]
        return weights[index] + 4.5 / 3 * (product[0] - product[1]).reshape(weights[index].shape)

    linear = nn.functional.linear(x.double(), effective(0), bias).square().sum()
    conv = nn.functional.conv2d(picture.double(), effective(1)).square().sum()
    expected = torch.autograd.grad(linear + conv, list(trained.values()))
    (module[0](x).square().sum() + module[1](picture).square().sum()).backward()
    for parameter, gradient in zip(lora_parameters(module).values(), expected, strict=True):
        assert parameter.grad is not None
        assert gradient.abs().max() > 0.1  # both matrices move from the first step on
        torch.testing.assert_close(parameter.grad.double(), gradient, rtol=1e-4, atol=1e-4)
    frozen = [n for n, p in module.named_parameters() if "start" in n and p.requires_grad]
    assert not frozen


@pytest.mark.parametrize("init", INITS)
def test_the_base_is_there_without_it_and_all_is_put_back(init: str) -> None:
    unet = tiny_unet()
    base = outputs(unet)
    add_lora(unet, spec(init, r=2, targets=EVERYTHING["unet"]), seed=0)
    torch.testing.assert_close(outputs(unet), base, rtol=1e-4, atol=1e-4)  # some ten layers
    for parameter in lora_parameters(unet).values():
        parameter.data += 0.05
    tuned = outputs(unet)
    assert (tuned - base).abs().max() > 0.1
    with disabled(unet):
        assert torch.equal(outputs(unet), base)
    assert torch.equal(outputs(unet), tuned)
    trained = {id(p) for p in lora_parameters(unet).values()}
    assert all(p.requires_grad == (id(p) in trained) for p in unet.parameters())
    with merged(unet):
        torch.testing.assert_close(outputs(unet), tuned, rtol=1e-3, atol=1e-3)
    assert torch.equal(outputs(unet), tuned)
    set_scale(unet, 0.0)
    assert torch.equal(outputs(unet), base)


def test_what_is_written_is_twice_the_rank_at_the_same_scale() -> None:
    module = add_lora(layers(), spec("pissa", alpha_pattern={"1": 3.0}), seed=0)
    start = [p.detach().clone() for p in lora_parameters(module).values()]
    for parameter in lora_parameters(module).values():
        parameter.data += 0.1
    state, layer = lora_state_dict(module), module[1]
    assert torch.equal(state["1.lora_A.weight"][:3], layer.lora_A["default"].weight)
    assert torch.equal(state["1.lora_A.weight"][3:], start[2])
    assert torch.equal(state["1.lora_B.weight"][:, :3], layer.lora_B["default"].weight)
    assert torch.equal(state["1.lora_B.weight"][:, 3:], -start[3])
    assert adapted_layers(module) == {"0": (6, 9.0), "1": (6, 6.0)}
    config = lora_config(module)
    assert (config.r, config.lora_alpha, config.alpha_pattern) == (6, 9.0, {"1": 6.0})
    assert module.peft_config["default"].r == 3
    stabilised = lora_config(add_lora(layers(), spec("olora", use_rslora=True), seed=0))
    assert stabilised.lora_alpha / math.sqrt(stabilised.r) == pytest.approx(4.5 / math.sqrt(3))


def test_a_16_bit_base_is_decomposed_in_float32() -> None:
    module = layers().to(torch.bfloat16)
    add_lora(module, spec("pissa"), seed=0)
    weight = module[0].base_layer.weight
    left, values, _ = torch.linalg.svd(weight.double())
    a, b = (p.detach() for p in list(lora_parameters(module).values())[:2])
    assert a.dtype == b.dtype == module[0].lora_A["start"].weight.dtype == torch.float32
    product = 1.5 * b.double() @ a.double()
    best = left[:, :3] @ left[:, :3].T @ weight.double()
    torch.testing.assert_close(product, best, rtol=1e-5, atol=1e-6)
    assert torch.linalg.matrix_norm(weight.double() - product, 2) == pytest.approx(values[3].item())


def test_more_ranks_than_a_layer_has_are_refused() -> None:
    with pytest.raises(LoraError, match="^r=6: 0 has no more than 5 ranks for init=olora"):
        add_lora(layers(), spec("olora", r=6), seed=0)
    add_lora(layers(), spec("olora", r=6, rank_pattern={"0": 5}), seed=0)


@pytest.mark.parametrize("shape", [(4, 4500), (4, 500, 3, 3)])
def test_drawn_matrices_have_their_distributions(shape: tuple[int, ...]) -> None:
    """N(0, 1/r^2), or uniform within 1 / sqrt(fan in), whose variance is a third of its square.

    Tolerances are five standard deviations of the estimates: 1 / sqrt(2 n) for the deviation of
    normal numbers, sqrt(0.8 / n) for the variance of uniform ones.
    """
    count, bound = math.prod(shape), 1 / math.sqrt(4500)
    normal = drawn_start(shape, "gaussian", generator(0, "start"))
    assert normal.std().item() == pytest.approx(1 / 4, rel=5 / math.sqrt(2 * count))
    uniform = drawn_start(shape, "default", generator(0, "start"))
    assert uniform.abs().max().item() == pytest.approx(bound, rel=2e-3)
    assert uniform.var().item() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / count))


@pytest.mark.parametrize("init", ["default", *INITS])
def test_written_weights_are_loaded_back_into_the_adapter_that_wrote_them(init: str) -> None:
    """PiSSA and OLoRA are written with twice the rank, beside what they began with."""
    module = add_lora(layers(), spec(init), seed=0)
    randomise(module)
    written = lora_state_dict(module)
    trained = {name: weight.clone() for name, weight in lora_parameters(module).items()}
    with torch.no_grad():
        for parameter in lora_parameters(module).values():
            parameter.zero_()
    load_written(module, written)
    assert all(torch.equal(trained[name], p) for name, p in lora_parameters(module).items())
    assert all(torch.equal(written[name], value) for name, value in lora_state_dict(module).items())
    with pytest.raises(LoraError, match="missing"):
        load_written(module, {})
