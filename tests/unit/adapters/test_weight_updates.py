"""Updates in a model's own weights: fitted by shapes, scaled, taken out to the bit, kept."""

import pytest
import torch
from torch import nn

from sdlora.adapters.adapter_kinds import kind_of
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.spec import LoraError
from sdlora.adapters.weight_updates import (
    apply_updates,
    fit_updates,
    keep_updates,
    remove_updates,
    scale_updates,
)


def update(**tensors: torch.Tensor) -> LayerUpdate:
    kind = kind_of(tensors)
    assert kind is not None
    return LayerUpdate(kind, tensors)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))


CHANGE = torch.full((6, 4), 0.5)
UPDATES = {
    "0": update(diff=CHANGE, diff_b=torch.ones(6)),
    "1": update(w_norm=torch.full((6,), 2.0), b_norm=torch.ones(6)),
}


def test_strength_is_linear_and_comes_off_to_the_bit() -> None:
    module, before = model(), model().state_dict()
    assert not fit_updates(module, UPDATES)
    apply_updates(module, UPDATES, 1.0)
    for scale in (1.0, -0.5, 0.0, 2.0):  # from the weights before, not from the last
        scale_updates(module, scale)
        wanted = before["0.weight"] + scale * CHANGE
        torch.testing.assert_close(module.get_parameter("0.weight").data, wanted)
        torch.testing.assert_close(
            module.get_parameter("1.weight").data, torch.ones(6) * (1 + 2 * scale)
        )
        torch.testing.assert_close(module.get_parameter("1.bias").data, torch.ones(6) * scale)
    with pytest.raises(LoraError, match="changed by a LoRA already"):
        apply_updates(module, UPDATES, 1.0)
    remove_updates(module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    remove_updates(module)
    apply_updates(module, UPDATES, 1.0)
    keep_updates(module)
    remove_updates(module)
    torch.testing.assert_close(module.get_parameter("0.weight").data, before["0.weight"] + CHANGE)


def test_16_bits_round_once() -> None:
    module = model().to(torch.bfloat16)
    own = module.get_parameter("0.weight").detach().clone()
    apply_updates(module, {"0": update(diff=CHANGE)}, 0.3)
    assert torch.equal(
        module.get_parameter("0.weight").data, (own.float() + 0.3 * CHANGE).to(torch.bfloat16)
    )


@pytest.mark.parametrize(
    ("layer", "wrong", "told"),
    [
        ("2", update(diff=CHANGE), "2: matches no layer of Sequential"),
        ("0", update(diff=torch.zeros(6, 5)), "0: full difference of diff [6, 5], the layer is"),
        ("0", update(w_norm=torch.zeros(6)), "0: norm of w_norm [6], the layer is [6, 4]"),
        ("0", update(diff=CHANGE, diff_b=torch.ones(4)), "0: a bias of [4], which it"),
        ("0", update(oft_blocks=torch.zeros(2, 4, 4)), "0: OFT of oft_blocks [2, 4, 4]"),
        ("0", update(lokr_w1=torch.ones(2, 2), lokr_w2=torch.ones(2, 2)), "0: LoKr of"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_line(layer: str, wrong: LayerUpdate, told: str) -> None:
    with torch.device("meta"):
        module = model()
    (line,) = fit_updates(module, {layer: wrong})
    assert line.startswith(told)


def test_a_quantised_base_is_refused_by_its_cause() -> None:
    module = model()
    module[0].weight = nn.Parameter(torch.zeros(12, 1, dtype=torch.uint8), requires_grad=False)
    one = {"0": update(diff=CHANGE)}
    assert not fit_updates(module, one)
    with pytest.raises(LoraError, match="quantised, and full difference.*without model.quantise"):
        apply_updates(module, one, 1.0)
