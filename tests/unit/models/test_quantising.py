"""The UNet in 4 bits: the numbers of the paper, gradients, bytes, and the same bits each time."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sdlora.assembly import family_limits
from sdlora.config.rules import ConfigError
from tests.unit.commands.train.test_reuse import load, train_config

# Dettmers et al. 2023, arXiv:2305.14314, appendix E
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def test_a_missing_package_is_told_before_a_weight_is_read(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family_limits, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^model.quantise=nf4: .* pip install bitsandbytes"):
        load(train_config(random_base / "nowhere", "model.quantise=nf4"))


@pytest.mark.parametrize("other", ["lora.init=pissa", "lora=full"])
def test_rounded_weights_neither_train_nor_start_an_adapter(
    other: str, random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family_limits, "find_spec", lambda name: name)
    config = train_config(random_base, "model.quantise=nf4", other)
    with pytest.raises(ConfigError, match=r"^model.quantise=nf4: rounded weights"):
        family_limits.check_family_limits(config)


def test_weights_on_the_levels_stay_and_gradients_pass() -> None:
    pytest.importorskip("bitsandbytes", reason="model.quantise needs bitsandbytes")
    from sdlora.models.quantising import quantise

    weight = 0.5 * torch.tensor(LEVELS).repeat(4).roll(3).repeat(32, 1)  # [32, 64]
    module = nn.Sequential(nn.Linear(64, 32), nn.Conv2d(1, 1, 1))
    module[0].weight.data = weight.clone()
    bias = module[0].bias.detach().clone()
    module.requires_grad_(False)
    quantise(module, "nf4")

    for mode in (False, True):  # in eval mode the library would repack what training reads
        layer = module.train(mode)[0]
        x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        with torch.no_grad():
            torch.testing.assert_close(layer(x.detach()), F.linear(x, weight, bias))
        layer(x).sum().backward()
        torch.testing.assert_close(x.grad, weight.sum(0).expand(3, 64))
    assert type(module[1]) is nn.Conv2d


def test_the_same_bits_each_time_and_as_few_as_said(random_base: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="model.quantise needs bitsandbytes")
    from sdlora.models.quantising import saved_bytes

    whole = load(train_config(random_base)).unet
    one, other = (load(train_config(random_base, "model.quantise=nf4")).unet for _ in range(2))
    packed = dict(other.named_parameters())
    assert all(torch.equal(weight, packed[name]) for name, weight in one.named_parameters())
    before, after = (sum(p.nbytes for p in unet.parameters()) for unet in (whole, one))
    scales = sum(  # lie beside the weights
        m.weight.quant_state.absmax.nbytes
        for m in one.modules()
        if hasattr(m, "weight") and hasattr(m.weight, "quant_state")
    )
    assert saved_bytes(whole) == pytest.approx(before - after - scales, rel=0.01)
