"""OFT of convolutions as peft computes it: which of them are changes of a weight."""

from dataclasses import replace

import torch
from peft import OFTConfig, inject_adapter_in_model
from torch import Tensor, nn

from sdlora.adapters.adapter_kinds import kind_of
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.weight_updates import fit_updates


class Net(nn.Module):
    def __init__(self, kernel: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(8, 6, kernel, padding=kernel // 2)


def turned_by_peft(kernel: int, x: Tensor) -> tuple[nn.Conv2d, LayerUpdate, Tensor]:
    """A convolution, peft's adapter on it as an update, and what peft's layer gives."""
    config = OFTConfig(r=0, oft_block_size=4, target_modules=["conv"])
    net = inject_adapter_in_model(config, Net(kernel))
    stored = net.get_parameter("conv.oft_R.default.weight")
    stored.data.copy_(0.1 * torch.randn(stored.shape, generator=torch.Generator().manual_seed(1)))
    kind = kind_of({"oft_R"})
    assert kind is not None
    update = LayerUpdate(kind, {"oft_R": stored.detach()}, on_input=True)
    with torch.no_grad():
        return Net(kernel).conv, update, net.conv(x)


def test_of_a_1x1_convolution_the_weight_is_turned_as_peft_turns_the_input() -> None:
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(2))
    conv, update, expected = turned_by_peft(1, x)
    change = update.change(conv.weight).weight
    assert change is not None
    before = conv(x)
    conv.weight.data += change
    torch.testing.assert_close(conv(x), expected)
    assert (before - expected).abs().max() > 0.1
    other = replace(update, on_input=False).change(Net(1).conv.weight).weight  # OneTrainer's way
    assert other is not None
    assert (other - change).abs().max() > 0.01


def test_with_a_kernel_peft_computes_no_change_of_the_weight() -> None:
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(2))
    conv, update, expected = turned_by_peft(3, x)
    weight = conv.weight.detach()
    for way in (update.change(weight.flatten(1)), replace(update, on_input=False).change(weight)):
        turned = way.weight
        assert turned is not None
        found = nn.functional.conv2d(x, weight + turned.view_as(weight), conv.bias, padding=1)
        assert (found - expected).abs().max() > 0.1
    (line,) = fit_updates(Net(3), {"conv": update})
    assert line.startswith("conv: peft's OFT of a convolution with a kernel")

    assert not fit_updates(Net(3), {"conv": replace(update, on_input=False)})
