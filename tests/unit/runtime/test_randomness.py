"""Draws are functions of (seed, purpose, index), whatever else is drawn and in what order."""

import math

import pytest
import torch

from sdlora.runtime.randomness import derive_seed, generator, normal, uniform


def test_a_seed_is_the_hash_of_its_key() -> None:
    """The same on every machine and version: a run can be repeated years later."""
    # printf '7/noise/3' | b2sum -l 64; one bit is dropped
    assert derive_seed(7, "noise", 3) == 0xAFCBA4560EA0B110 >> 1
    assert derive_seed(7, "noise") == derive_seed(7, "noise", 0)


def test_every_part_of_the_key_counts() -> None:
    keys = [(0, "noise", 0), (1, "noise", 0), (0, "timestep", 0), (0, "noise", 1), (-1, "noise", 0)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)
    assert len({derive_seed(1, "a", 23), derive_seed(12, "a", 3), derive_seed(1, "a2", 3)}) == 3


def test_seeds_fit_a_generator_and_do_not_collide() -> None:
    seeds = {derive_seed(0, "noise", index) for index in range(20_000)}
    assert len(seeds) == 20_000
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    # bits are even: the mean of n uniform draws lies within 4 sigma of the middle
    mean = sum(seeds) / 20_000 / 2**63
    assert abs(mean - 0.5) < 4 * math.sqrt(1 / 12 / 20_000)


def test_a_draw_depends_on_its_own_index_alone() -> None:
    together = normal((2, 3), 5, "noise", torch.tensor([40, 7, 41]))
    assert together.shape == (3, 2, 3)
    assert together.dtype == torch.float32
    alone = normal((2, 3), 5, "noise", torch.tensor([7]))
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=0)
    again = normal((2, 3), 5, "noise", torch.tensor([41, 40, 7]))
    torch.testing.assert_close(again[[1, 2, 0]], together, rtol=0, atol=0)

    both = uniform(5, "timestep", torch.tensor([3, 9]))
    assert both.shape == (2,)
    assert both[1].item() == uniform(5, "timestep", torch.tensor([9])).item()


def test_a_draw_is_what_torch_draws_from_that_seed() -> None:
    expected = torch.randn(4, 2, generator=torch.Generator().manual_seed(derive_seed(3, "x", 8)))
    assert torch.equal(normal((4, 2), 3, "x", torch.tensor([8]))[0], expected)
    assert generator(3, "x", 8).initial_seed() == derive_seed(3, "x", 8)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    index = torch.arange(4)
    before = torch.get_rng_state()
    first = normal((8,), 1, "noise", index), uniform(1, "timestep", index)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12345)
    assert torch.equal(normal((8,), 1, "noise", index), first[0])
    assert torch.equal(uniform(1, "timestep", index), first[1])


def test_draws_do_not_depend_on_the_default_dtype() -> None:
    index = torch.arange(4)
    expected = normal((8,), 1, "noise", index), uniform(1, "timestep", index)
    torch.set_default_dtype(torch.float64)
    assert normal((8,), 1, "noise", index).dtype == torch.float32
    torch.testing.assert_close(normal((8,), 1, "noise", index), expected[0], rtol=0, atol=0)
    torch.testing.assert_close(uniform(1, "timestep", index), expected[1], rtol=0, atol=0)


def test_moments_over_samples_are_those_of_the_distribution() -> None:
    """One number a sample: what matters is that neighbouring indices are independent."""
    num = 4000
    draws = normal((16,), 0, "noise", torch.arange(num)).double()
    standard_error = 1 / math.sqrt(num)
    assert (draws.mean(dim=0).abs() < 4.5 * standard_error).all()
    variances = draws.var(dim=0)
    assert ((variances - 1).abs() < 4.5 * math.sqrt(2) * standard_error).all()
    assert ((draws**4).mean(dim=0) - 3).abs().max() < 4.5 * math.sqrt(96) * standard_error
    neighbours = (draws[1:] * draws[:-1]).mean(dim=0)
    assert (neighbours.abs() < 4.5 * standard_error).all()

    values = uniform(0, "timestep", torch.arange(num)).double()
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values, bins=10, min=0, max=1)
    chi_square = ((counts - num / 10).square() / (num / 10)).sum()
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001
    assert abs(torch.corrcoef(torch.stack([values[1:], values[:-1]]))[0, 1]) < 4.5 * standard_error


def test_two_purposes_of_one_index_are_independent() -> None:
    index = torch.arange(4000)
    noise = normal((1,), 0, "noise", index).flatten()
    posterior = normal((1,), 0, "posterior", index).flatten()
    correlation = torch.corrcoef(torch.stack([noise, posterior]))[0, 1]
    assert abs(correlation) < 4.5 / math.sqrt(4000)


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_any_seed_is_a_seed(seed: int) -> None:
    assert (
        uniform(seed, "timestep", torch.tensor([0])).item()
        != uniform(seed + 1, "timestep", torch.tensor([0])).item()
    )
