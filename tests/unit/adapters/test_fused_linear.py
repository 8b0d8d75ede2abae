"""The fused update against float64, and against peft's own layer."""

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sdlora.adapters.fused_linear import FusedLinear
from sdlora.adapters.lora import add_lora
from sdlora.adapters.spec import LoraSpec
from sdlora.adapters.strength import disabled

R, ALPHA = 3, 4.5


def net(**method: Any) -> nn.Module:
    """One linear layer 5 -> 7 with an adapter whose B is not zero."""
    draws = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7))
    for weight in module.parameters():
        nn.init.normal_(weight, generator=draws)
    spec = LoraSpec(r=R, alpha=ALPHA, dropout=0.0, targets=("0",), **method)
    add_lora(module.requires_grad_(False), spec, seed=1)
    nn.init.normal_(module[0].lora_B["default"].weight, generator=draws)
    return module


def as_in_peft(module: nn.Module) -> nn.Module:
    plain = copy.deepcopy(module)
    plain[0].__class__ = Linear
    return plain


def gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    module(x).float().square().sum().backward()
    assert x.grad is not None
    trained = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return {"x": x.grad, **trained}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(7))


def test_it_is_the_formula(x: Tensor) -> None:
    module = net()
    layer = module[0]
    assert isinstance(layer, FusedLinear)
    w, b = layer.base_layer.weight.double(), layer.base_layer.bias.double()
    a, up = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
    expected = x.double() @ w.T + b + ALPHA / R * (x.double() @ a.T @ up.T)
    torch.testing.assert_close(module(x).double(), expected, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_peft(x: Tensor) -> None:
    module = net()
    expected, got = gradients(as_in_peft(module), x), gradients(module, x)
    assert len(got) == 3  # x, A, B
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5)  # one rounding less


def test_without_gradients_it_is_peft_to_the_bit(x: Tensor) -> None:
    module = net()
    with torch.no_grad():
        assert torch.equal(module(x), as_in_peft(module)(x))


@pytest.mark.parametrize("method", [{"use_dora": True}, {"init": "pissa"}, {"rank_dropout": 0.5}])
def test_other_methods_are_as_in_peft(x: Tensor, method: dict[str, Any]) -> None:
    module = net(**method)
    got = []
    for one in (module, as_in_peft(module)):
        torch.manual_seed(3)
        got.append(gradients(one, x))
    for name, value in got[1].items():
        torch.testing.assert_close(got[0][name], value, rtol=1e-5, atol=1e-5)


def test_switched_off_it_is_the_base(x: Tensor) -> None:
    module = net()
    with disabled(module):
        assert torch.equal(module(x), module[0].base_layer(x))


def test_over_a_half_base_without_autocast_it_is_as_in_peft(x: Tensor) -> None:
    module = net()
    module[0].base_layer.bfloat16()
    expected, got = gradients(as_in_peft(module), x.bfloat16()), gradients(module, x.bfloat16())
    assert all(torch.equal(got[name], value) for name, value in expected.items())


class Kernels(TorchDispatchMode):
    """How often each kernel ran."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def test_inputs_are_not_copied_under_autocast(x: Tensor) -> None:
    """What is cast is A and B, and their gradients; peft casts x twice, and its gradient twice."""
    casts = []
    for module in (net(), as_in_peft(net())):
        module[0].base_layer.bfloat16()
        half = x.bfloat16().requires_grad_()
        with Kernels() as kernels, torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            module(half).sum().backward()
        casts.append(kernels.count["_to_copy"])
    assert casts == [4, 8]
