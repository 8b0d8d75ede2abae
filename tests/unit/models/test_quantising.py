"""The denoiser in 8 bits and in 4: worked numbers, gradients, bytes, the same bits each time."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sdlora.assembly import family_limits
from sdlora.assembly.family_limits import check_model
from sdlora.config.rules import ConfigError
from sdlora.models.int8_linear import Int8Linear
from sdlora.models.quantising import quantise, saved_bytes
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
    check_model(train_config(random_base, "model.quantise=int8").model)  # needs none


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("other", ["lora.init=pissa", "lora=full"])
def test_rounded_weights_neither_train_nor_start_an_adapter(
    other: str, kind: str, random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family_limits, "find_spec", lambda name: name)
    config = train_config(random_base, f"model.quantise={kind}", other)
    with pytest.raises(ConfigError, match=rf"^model.quantise={kind}: rounded weights"):
        family_limits.check_family_limits(config)


def test_weights_on_the_levels_stay_and_gradients_pass() -> None:
    pytest.importorskip("bitsandbytes", reason="model.quantise needs bitsandbytes")
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
    assert saved_bytes(whole, "nf4") == pytest.approx(before - after - scales, rel=0.01)


def layer_of(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None).to(weight.dtype)
    layer.weight.data = weight.clone()
    if bias is not None:
        layer.bias.data = bias.clone()
    return layer.requires_grad_(False)


def test_whole_numbers_by_hand() -> None:
    """Each row has its own scale: its largest weight is 127 steps; a row of zeros stays one."""
    rows = [[1.27, -0.634, 0.0, 0.012], [0.0, 0.0, 0.0, 0.0], [-254.0, 1.0, 3.1, 254.0]]
    layer = Int8Linear.of(layer_of(torch.tensor(rows)))
    assert layer.weight.tolist() == [[127, -63, 0, 1], [0, 0, 0, 0], [-127, 0, 2, 127]]
    assert layer.scale[[0, 2]].flatten().tolist() == pytest.approx([0.01, 2.0])
    assert layer(torch.eye(4))[:, 1].tolist() == [0.0] * 4
    assert not layer.weight.is_floating_point()  # by which others see that it is rounded
    assert not layer.weight.requires_grad


def test_z_image_in_eight_bits_stays_in_its_dtype(random_z_image: Path) -> None:
    """Its embedding of time asks a rounded layer for the dtype that it computes in."""
    given = ("model=z_image", "trainer.precision=bf16", "model.quantise=int8")
    family = load(train_config(random_z_image, *given, family="z_image"))
    seen = set()
    for layer in family.denoiser.modules():
        if isinstance(layer, Int8Linear):
            layer.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    told = family.encode_prompts(family.tokenize(["a man"]).ids)
    z = torch.randn(1, family.denoiser.config.in_channels, 4, 4)
    family.denoise(z, torch.tensor([0.5]), told)
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_and_gradients_are_those_of_the_rounded_weights(dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 64, generator=draws).to(dtype)
    bias = torch.randn(48, generator=draws).to(dtype)
    layer = Int8Linear.of(layer_of(weight, bias))
    rounded = layer.weight.double() * layer.scale.double()
    step = layer.scale.double().expand_as(weight)
    # the scale is a number of this dtype: the largest weight may lie half its last bit beyond 127
    beyond = 127 * step * torch.finfo(dtype).eps
    assert bool(((rounded - weight.double()).abs() <= step / 2 + beyond).all())
    x = torch.randn(5, 3, 64, generator=draws).to(dtype).requires_grad_()
    with torch.no_grad():
        assert layer(x).dtype == dtype
    found = layer(x)
    found.double().square().sum().backward()
    near = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 20 * torch.finfo(dtype).eps}
    exact = F.linear(x.detach().double(), rounded, bias.double())
    torch.testing.assert_close(found.double(), exact, **near)
    expected = (2 * found.detach().double()) @ rounded
    assert (x.grad.double() - expected).norm() < 2 * torch.finfo(dtype).eps * expected.norm()


def test_autocast_computes_in_its_dtype() -> None:
    layer = Int8Linear.of(layer_of(torch.randn(8, 16)))
    x = torch.randn(2, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    rounded = layer.weight.float() * layer.scale
    torch.testing.assert_close(x.grad, rounded.sum(0).expand(2, -1), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_eight_bits_are_as_few_as_said(precision: str, random_base: Path) -> None:
    given = (f"trainer.precision={precision}", "lora.text_encoder.method=frozen")
    whole = load(train_config(random_base, *given)).unet
    one, other = (load(train_config(random_base, "model.quantise=int8", *given)) for _ in range(2))
    sizes = [sum(t.nbytes for t in unet.state_dict().values()) for unet in (whole, one.unet)]
    assert saved_bytes(whole, "int8") == sizes[0] - sizes[1]
    again = other.unet.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in one.unet.state_dict().items())
    kinds = {type(m) for m in one.unet.modules() if isinstance(m, nn.Linear)}
    assert kinds == {Int8Linear}
