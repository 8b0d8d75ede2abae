"""Dropout of ranks: what it drops, that the mean stays, and that the seed decides."""

import pytest
import torch
from torch import nn

from sdlora.adapters.lora import add_lora, lora_parameters
from sdlora.adapters.spec import LoraSpec

P = 0.25


def layer(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(1)
    base = nn.Linear(6, 5) if kind == "linear" else nn.Conv2d(6, 5, 3, padding=1)
    x = torch.randn(3, 4, 6) if kind == "linear" else torch.randn(3, 6, 4, 4)
    module = nn.Sequential(base)
    add_lora(module, LoraSpec(4, 8.0, 0.0, ("0",), rank_dropout=P), seed=0)
    for parameter in lora_parameters(module).values():
        parameter.data = torch.randn_like(parameter)
    return module, x


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_sample_loses_whole_ranks_and_the_mean_stays(kind: str) -> None:
    module, x = layer(kind)
    down, ranks = module[0].lora_A["default"], (-1 if kind == "linear" else 1)
    whole = module.eval()(x).detach()
    before, dropped = down(x), module.train()[0].lora_A["default"](x)
    stays = dropped != 0
    torch.testing.assert_close(dropped[stays], before[stays] / (1 - P))
    places = [axis for axis in range(stays.ndim) if axis not in (0, ranks % stays.ndim)]
    assert torch.equal(stays.amax(places), stays.amin(places))  # a rank is there, or it is not
    assert stays.any()
    assert not stays.all()

    torch.manual_seed(0)
    num = 4000
    draws = torch.stack([module(x).detach() for _ in range(num)])
    error = draws.std(0) / num**0.5
    assert ((draws.mean(0) - whole).abs() < 5 * error + 1e-6).all()  # five standard errors
    assert error.min() > 0


def test_the_seed_decides_and_evaluation_drops_nothing() -> None:
    module, x = layer("linear")
    module.train()
    torch.manual_seed(7)
    first = module(x)
    other = module(x)
    torch.manual_seed(7)
    assert torch.equal(module(x), first)
    assert not torch.equal(other, first)
    module.eval()
    assert torch.equal(module(x), module(x))
