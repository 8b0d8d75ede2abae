"""Resize, add and extract, against torch's own SVD of whole products and sums by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdlora.adapters.arithmetic import (
    Cut,
    added,
    difference_layer,
    resized,
    resized_layer,
    update_norm,
)
from sdlora.adapters.file_writing import adapters_of
from sdlora.adapters.formats import apply_lora
from sdlora.adapters.lora_file import LoraFile, from_layers
from sdlora.adapters.spec import LoraError
from sdlora.runtime.progress import Progress
from tests.unit.adapters.tiny_models import EVERYTHING, outputs, tiny_unet, with_lora


def layer(out: int, inputs: tuple[int, ...], r: int, alpha: float, seed: int = 0):
    draws = torch.Generator().manual_seed(seed)
    ones = [1] * (len(inputs) - 1)
    return {
        "A": torch.randn(r, *inputs, generator=draws),
        "B": torch.randn(out, r, *ones, generator=draws),
        "alpha": torch.tensor(alpha, dtype=torch.float64),
    }


def update(found: dict[str, Tensor]) -> Tensor:
    """``alpha / r * B @ A`` formed whole, in float64."""
    a, b = found["A"].flatten(1).double(), found["B"].flatten(1).double()
    return found["alpha"].item() / a.shape[0] * b @ a


LINEAR, CONV = (10, (7,)), (6, (4, 3, 3))


@pytest.mark.parametrize(("out", "inputs"), [LINEAR, CONV], ids=["linear", "convolution"])
def test_the_norm_is_that_of_the_whole_update(out: int, inputs: tuple[int, ...]) -> None:
    found = layer(out, inputs, r=4, alpha=6.0)
    assert update_norm(found) == pytest.approx(float(update(found).norm()), rel=1e-12)


@pytest.mark.parametrize(("out", "inputs"), [LINEAR, CONV], ids=["linear", "convolution"])
@pytest.mark.parametrize("r", [1, 3])
def test_no_matrix_of_that_rank_is_nearer(out: int, inputs: tuple[int, ...], r: int) -> None:
    whole = layer(out, inputs, r=5, alpha=2.0)
    cut, energy = resized_layer(whole, Cut(r=r))
    assert cut["A"].shape == (r, *inputs)
    assert cut["B"].shape == (out, r, *[1] * (len(inputs) - 1))
    assert cut["alpha"].item() == pytest.approx(2.0 / 5 * r)  # the scale stays
    u, s, vh = torch.linalg.svd(update(whole), full_matrices=False)
    best = (u[:, :r] * s[:r]) @ vh[:r]  # Eckart-Young
    # the factors are float32, so the product is right to about 1e-7 of its size
    torch.testing.assert_close(update(cut), best, rtol=1e-5, atol=1e-5)
    assert energy.total == pytest.approx(float(s.square().sum()), rel=1e-9)
    assert energy.lost == pytest.approx(float(s[r:].square().sum()), rel=1e-9)
    assert energy.relative_error == pytest.approx(
        float((update(whole) - update(cut)).norm() / update(whole).norm()), rel=1e-4
    )


def test_the_share_of_energy_is_counted_by_hand() -> None:
    # 4, 2, 1: squares 16 + 4 + 1 = 21; the first keeps 0.762, two keep 0.952
    values = torch.tensor([4.0, 2.0, 1.0])
    kept = {0.7: 1, 0.77: 2, 0.95: 2, 0.96: 3, 1.0: 3}
    assert {share: Cut(keep=share).rank(values) for share in kept} == kept
    assert Cut(r=2).rank(values) == 2
    assert Cut(r=9).rank(values) == 3
    assert Cut(r=1, keep=0.99).rank(values) == 1
    assert Cut(keep=0.9).rank(torch.zeros(3)) == 3  # nothing is known of a layer without effect


def test_what_loses_nothing_stays_to_the_bit() -> None:
    whole = layer(10, (7,), r=3, alpha=2.0)
    for cut in (Cut(r=3), Cut(r=8), Cut(keep=1.0)):
        same, energy = resized_layer(whole, cut)
        assert all(torch.equal(same[kind], value) for kind, value in whole.items())
        assert energy.lost == 0.0


def test_ranks_differ_where_a_share_is_kept(tmp_path: Path) -> None:
    flat, steep = layer(10, (8,), 4, 4.0), layer(10, (8,), 4, 4.0, seed=1)
    steep["B"][:, 1:] *= 1e-3
    lora = from_layers("x", {"unet": {"conv_in": flat, "conv_out": steep}}, {}, "kohya")
    parts, energies = resized(lora, Cut(keep=0.9), Progress(enabled=False))
    ranks = {name: tensors["A"].shape[0] for name, tensors in parts["unet"].items()}
    assert ranks["conv_out"] == 1
    assert ranks["conv_in"] > 1
    assert 0 < energies["unet"].lost <= 0.1 * energies["unet"].total
    again = from_layers("x", parts, {}, "kohya").layers("unet")
    for name, tensors in again.items():
        assert tensors["alpha"].item() == ranks[name]  # scale 1 before and after


def of_unet(seed: int, **spec: object) -> LoraFile:
    unet = with_lora(tiny_unet(), "unet", EVERYTHING, **spec)
    lora = adapters_of({"unet": unet}, {})
    draws = torch.Generator().manual_seed(seed)
    state = {k: torch.randn(v.shape, generator=draws) * 0.1 for k, v in lora.states["unet"].items()}
    return LoraFile({"unet": state}, lora.specs, {}, "diffusers")


def test_a_sum_has_the_weighted_sum_of_effects() -> None:
    """Of updates formed whole; in float32 the products are right to about 1e-7 of their size."""
    loras = [of_unet(1, r=4, alpha=6.0), of_unet(2, r=3, alpha=1.0, use_rslora=True)]
    alone = loras[1].states["unet"]
    lora_b = LoraFile(
        {"unet": {k: v for k, v in alone.items() if not k.startswith("conv_in.")}},
        loras[1].specs, {}, "diffusers",
    )  # fmt: skip
    total = added([loras[0], lora_b], [0.7, -0.3])["unet"]
    first, second = loras[0].layers("unet"), lora_b.layers("unet")
    assert total.keys() == first.keys()
    assert total["conv_in"]["A"].shape[0] == 4
    assert total["conv_out"]["A"].shape[0] == 4 + 3
    # by hand, rank-stabilised: alpha / sqrt(r)
    b, a = alone["conv_out.lora_B.weight"].flatten(1), alone["conv_out.lora_A.weight"].flatten(1)
    torch.testing.assert_close(update(second["conv_out"]), (b @ a / 3**0.5).double())
    for name, found in total.items():
        expected = 0.7 * update(first[name])
        if name in second:
            expected = expected - 0.3 * update(second[name])
        torch.testing.assert_close(update(found), expected, rtol=1e-5, atol=1e-6)


def test_a_sum_draws_as_both_together() -> None:
    """With one weight 0 the model gives what the other LoRA gives, at its strength."""
    loras = [of_unet(1, alpha=6.0), of_unet(2, alpha=2.0)]
    unet, wanted = tiny_unet(), tiny_unet()
    parts = added(loras, [0.5, 0.0])
    apply_lora({"unet": unet}, from_layers("x", parts, {}, "diffusers"))
    apply_lora({"unet": wanted}, loras[0], scale=0.5)
    torch.testing.assert_close(outputs(unet), outputs(wanted), rtol=1e-4, atol=1e-5)


def test_files_of_different_bases_are_not_added() -> None:
    one = from_layers("x", {"unet": {"conv_in": layer(10, (7,), 2, 2.0)}}, {}, "kohya")
    other = from_layers("x", {"unet": {"conv_in": layer(10, (8,), 2, 2.0)}}, {}, "kohya")
    with pytest.raises(LoraError, match=r"unet.conv_in: \[10, 7\], \[10, 8\]"):
        added([one, other], [1.0, 1.0])


def test_a_dora_is_refused() -> None:
    dora = adapters_of({"unet": with_lora(tiny_unet(), "unet", EVERYTHING, use_dora=True)}, {})
    with pytest.raises(LoraError, match="a DoRA on unet: its magnitudes"):
        resized(dora, Cut(r=1), Progress(enabled=False))
    with pytest.raises(LoraError, match="a sum of DoRAs is no DoRA"):
        added([dora], [1.0])


@pytest.mark.parametrize("shape", [(10, 7), (6, 4, 3, 3)], ids=["linear", "convolution"])
def test_a_difference_becomes_its_best_lora(shape: tuple[int, ...]) -> None:
    difference = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found, energy = difference_layer(difference, Cut(r=2))
    s = torch.linalg.svdvals(difference.flatten(1).double())
    assert found["alpha"].item() == 2.0
    assert found["A"].shape == (2, *shape[1:])
    assert energy.lost == pytest.approx(float(s[2:].square().sum()), rel=1e-5)
    missing = (difference.flatten(1).double() - update(found)).norm()
    assert float(missing) == pytest.approx(float(s[2:].square().sum().sqrt()), rel=1e-5)
    # both matrices have the roots of the singular values
    torch.testing.assert_close(found["A"].flatten(1).norm(dim=1).square(), s[:2].float())
    torch.testing.assert_close(found["B"].flatten(1).norm(dim=0).square(), s[:2].float())
    whole, energy = difference_layer(difference, Cut(keep=1.0))
    torch.testing.assert_close(update(whole).float(), difference.flatten(1), rtol=1e-5, atol=1e-5)
    assert energy.lost == 0.0
