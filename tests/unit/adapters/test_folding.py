"""Alpha folded into the weights: one strength for a reader that knows no alpha, and back again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sdlora.adapters.file_writing import adapters_of, write_diffusers, write_kohya
from sdlora.adapters.folding import folded, with_alphas_of
from sdlora.adapters.formats import read_lora, restore_lora
from sdlora.adapters.lora import add_lora, load_lora_state_dict, lora_parameters
from sdlora.adapters.spec import LoraSpec
from sdlora.models.flux2_klein import FLUX2_KLEIN

NAMES = FLUX2_KLEIN.trainable
RANKS = {"to_k": 2}
UNEVEN = LoraSpec(
    r=4,
    alpha=3.0,
    dropout=0.0,
    targets=("to_q", "to_k"),
    rank_pattern=RANKS,
    alpha_pattern={"to_k": 5.0},
)


def trained(spec: LoraSpec = UNEVEN) -> nn.Module:
    module = nn.ModuleDict({name: nn.Linear(6, 5) for name in ("to_q", "to_k", "to_v")})
    add_lora(module, spec, seed=0)
    for weight in lora_parameters(module).values():
        nn.init.normal_(weight)
    return module


def update_of(module: nn.Module) -> dict[str, Tensor]:
    layers = {name: module.get_submodule(name) for name in ("to_q", "to_k")}
    return {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}


@pytest.mark.parametrize("write", [write_diffusers, write_kohya])
def test_a_file_has_one_strength_for_every_reader(write: object, tmp_path: Path) -> None:
    """Without its header it is B A; with it alpha is the rank, so that it is B A as well."""
    module = trained()
    path = tmp_path / "a.safetensors"
    write(path, parts={"transformer": module}, names=NAMES, metadata={})  # type: ignore[operator]
    tensors = load_file(path)
    assert sorted(tensors) == [
        f"transformer.{layer}.lora_{name}.weight" for layer in ("to_k", "to_q") for name in "AB"
    ]
    lora = read_lora(path)
    for layer, update in update_of(module).items():
        a, b = (tensors[f"transformer.{layer}.lora_{name}.weight"] for name in "AB")
        torch.testing.assert_close(b @ a, update)
        assert lora.layers("transformer")[layer]["alpha"].item() == a.shape[0]


def test_it_is_put_back_into_the_adapter_that_it_was_written_from() -> None:
    module, other = trained(), trained(UNEVEN)
    for weight in lora_parameters(other).values():
        nn.init.zeros_(weight)
    lora = folded(adapters_of({"transformer": module}, {}))
    restore_lora({"transformer": other}, lora)
    for name, weight in lora_parameters(module).items():
        torch.testing.assert_close(lora_parameters(other)[name], weight)


def test_rank_stabilised_scales_are_folded() -> None:
    module = trained(LoraSpec(4, 6.0, 0.0, ("to_q", "to_k"), use_rslora=True))
    found = folded(adapters_of({"transformer": module}, {}))
    spec = found.specs["transformer"]
    assert (spec.alpha, spec.use_rslora) == (4.0, False)
    state = found.states["transformer"]
    product = state["to_q.lora_B.weight"] @ state["to_q.lora_A.weight"]
    torch.testing.assert_close(product, update_of(module)["to_q"])


def test_an_adapter_of_other_alphas_makes_the_same_update() -> None:
    module, other = trained(), trained(LoraSpec(4, 7.0, 0.0, ("to_q", "to_k"), rank_pattern=RANKS))
    lora = with_alphas_of(adapters_of({"transformer": module}, {}), {"transformer": other})
    load_lora_state_dict(other, lora.states["transformer"])
    for layer, update in update_of(module).items():
        torch.testing.assert_close(update_of(other)[layer], update)


def test_alpha_as_the_rank_stays_to_the_bit() -> None:
    lora = adapters_of({"transformer": trained(LoraSpec(4, 4.0, 0.0, ("to_q",)))}, {})
    again = folded(lora)
    for key, value in lora.states["transformer"].items():
        assert torch.equal(again.states["transformer"][key], value)


@pytest.mark.parametrize(("alpha", "dtype"), [(2.0, torch.float16), (3.0, torch.float32)])
def test_half_precision_is_kept_where_nothing_is_lost(alpha: float, dtype: torch.dtype) -> None:
    lora = adapters_of({"transformer": trained(LoraSpec(4, alpha, 0.0, ("to_q", "to_k")))}, {})
    halves = {key: value.half() for key, value in lora.states["transformer"].items()}
    found = folded(replace(lora, states={"transformer": halves})).states["transformer"]
    assert found["to_q.lora_B.weight"].dtype == dtype
    assert found["to_q.lora_A.weight"].dtype == torch.float16
    exact = halves["to_q.lora_B.weight"].double() * alpha / 4
    torch.testing.assert_close(found["to_q.lora_B.weight"].double(), exact, rtol=1e-7, atol=0)
