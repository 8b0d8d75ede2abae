"""Every kind of update against LyCORIS' own modules: the outputs of a layer that carries one.

Compared are outputs of ``forward``, which is what was trained. (``get_merged_weight`` of LyCORIS
4.1.3 applies the scale of LoHa and LoKr twice.)
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("lycoris", reason="pip install lycoris-lora: the reference of these numbers")

from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule

from sdlora.adapters.adapter_layers import file_layers
from sdlora.adapters.arithmetic import Cut
from sdlora.adapters.file_sorting import sorted_tensors
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.lora_file import from_layers
from sdlora.adapters.plain_form import plain_form

pytestmark = [
    pytest.mark.slow,  # LyCORIS takes five seconds to import
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

LINEAR, CONV = "mid_block.attentions.0.proj_in", "mid_block.resnets.0.conv1"
DORA = {"weight_decompose": True}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "locon": (LoConModule, {}),
    "locon, CP": (LoConModule, {"use_tucker": True}),
    "locon, rs": (LoConModule, {"rs_lora": True}),
    "locon, DoRA": (LoConModule, DORA),
    "locon, DoRA by inputs": (LoConModule, {**DORA, "wd_on_out": False}),
    "locon, scalar": (LoConModule, {"use_scalar": True}),
    "loha": (LohaModule, {}),
    "loha, CP": (LohaModule, {"use_tucker": True}),
    "loha, DoRA": (LohaModule, DORA),
    "loha, DoRA by inputs": (LohaModule, {**DORA, "wd_on_out": False}),
    "lokr": (LokrModule, {}),
    "lokr, CP": (LokrModule, {"use_tucker": True}),
    "lokr, both": (LokrModule, {"decompose_both": True, "factor": 4}),
    "lokr, whole": (LokrModule, {"full_matrix": True}),
    "lokr, DoRA": (LokrModule, DORA),
    "lokr, DoRA by inputs": (LokrModule, {**DORA, "wd_on_out": False}),
    "ia3": (IA3Module, {}),
    "ia3 on inputs": (IA3Module, {"train_on_input": True}),
    "glora": (GLoRAModule, {}),
    "oft": (DiagOFTModule, {}),
    "oft, bound, rescaled": (DiagOFTModule, {"constraint": 0.001, "rescaled": True}),
    "boft": (ButterflyOFTModule, {}),
    "boft, bound, rescaled": (ButterflyOFTModule, {"constraint": 0.001, "rescaled": True}),
    "full": (FullModule, {}),
}


def layer_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(24, 16) if name == LINEAR else nn.Conv2d(8, 16, 3, padding=1)


def trained(kind: Any, layer: nn.Module, options: Mapping[str, Any]) -> Any:
    """LyCORIS' module on a layer, moved off its start."""
    module = kind("x", layer, 1.0, lora_dim=2, alpha=1.5, **options).eval()
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "org_module" not in name:
                around = 1.0 if "dora" in name or "rescale" in name else 0.0
                values = torch.randn(parameter.shape, generator=draws)
                parameter.copy_(around + 0.3 * values)
    return module


def with_lycoris(module: Any, layer: nn.Module, x: Tensor) -> Tensor:
    own = layer.forward
    module.apply_to()
    found = layer(x).detach()
    if isinstance(module, FullModule):
        module.restore()
    layer.forward = own
    return found


def in_file(module: Any, name: str) -> dict[str, Tensor]:
    """What LyCORIS saves of a module."""
    stem = f"lora_unet_{name.replace('.', '_')}"
    if isinstance(module, FullModule):  # which saves differences
        return {f"{stem}.diff": module.weight.detach(), f"{stem}.diff_b": module.bias.detach()}
    state = {k: v.detach().clone() for k, v in module.state_dict().items() if "org_module" not in k}
    return {f"{stem}.{key}": value for key, value in state.items()}


def as_update(tensors: Mapping[str, Tensor]) -> LayerUpdate | dict[str, Tensor]:
    content = file_layers({key: tuple(t.shape) for key, t in tensors.items()}, {})
    assert not content.unknown
    found = sorted_tensors(
        Path("x"), tensors, content.layers, lambda n: ("unet", n), lambda *_: None
    )
    (where,) = [*found.parts.values(), *found.updates.values()]
    return next(iter(where.values()))


def changed(found: LayerUpdate | dict[str, Tensor], layer: Any, x: Tensor) -> Tensor:
    """The layer's output with our update, or our plain layer, in its weights."""
    if isinstance(found, LayerUpdate):
        change = found.change(layer.weight)
        weight = layer.weight + change.weight
        bias = layer.bias if change.bias is None else layer.bias + change.bias
    else:
        a, b, bias = found["A"], found["B"], layer.bias
        scale = found["alpha"] / a.shape[0]
        weight = layer.weight + scale * (b.flatten(1) @ a.flatten(1)).reshape(layer.weight.shape)
        if "magnitude" in found:
            ones = [1] * (weight.ndim - 1)
            norm = weight.flatten(1).norm(dim=1).reshape(-1, *ones)
            weight = weight / norm * found["magnitude"].reshape(-1, *ones)
    if weight.ndim == 2:
        return functional.linear(x, weight, bias)
    return functional.conv2d(x, weight, bias, padding=1)


@torch.no_grad()
@pytest.mark.parametrize("where", [LINEAR, CONV])
@pytest.mark.parametrize("case", CASES)
def test_the_output_is_lycoris_own(case: str, where: str) -> None:
    kind, options = CASES[case]
    layer = layer_of(where)
    x = torch.randn(3, 24) if where == LINEAR else torch.randn(3, 8, 5, 5)
    module = trained(kind, layer, options)
    found = changed(as_update(in_file(module, where)), copy.deepcopy(layer), x)
    before = layer(x)
    wanted = with_lycoris(module, layer, x)
    assert (wanted - before).abs().max() > 0.02
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=5e-6)  # float32 in both


class Model(nn.Module):
    """A part with one layer under its name in a U-Net."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        *path, last = name.split(".")
        place: nn.Module = self
        for each in path:
            place.add_module(each, nn.Module())
            place = place.get_submodule(each)
        place.add_module(last, layer)


@torch.no_grad()
@pytest.mark.parametrize("where", [LINEAR, CONV])
@pytest.mark.parametrize("case", [name for name in CASES if not name.startswith("locon")])
def test_the_plain_form_gives_the_same_output(case: str, where: str) -> None:
    """Exactly where the form allows, else by an SVD that keeps everything."""
    kind, options = CASES[case]
    layer = layer_of(where)
    x = torch.randn(3, 24) if where == LINEAR else torch.randn(3, 8, 5, 5)
    module = trained(kind, layer, options)
    update = as_update(in_file(module, where))
    assert isinstance(update, LayerUpdate)
    empty = from_layers("x", {}, {}, "kohya")
    lora = replace(empty, updates={"unet": {where: update}})
    found = plain_form(lora, Cut(keep=1.0), {"unet": Model(where, layer)})
    plain = found.lora.layers("unet")[where]
    before = copy.deepcopy(layer)
    if isinstance(module, FullModule):
        before.bias += module.bias
    wanted = with_lycoris(module, layer, x)
    torch.testing.assert_close(changed(plain, before, x), wanted, rtol=1e-4, atol=2e-5)
    exact = case in ("loha", "loha, CP", "lokr", "lokr, CP", "lokr, both") or (
        case == "glora" and where == LINEAR
    )
    assert bool(found.exact) == exact or case == "lokr, whole"
