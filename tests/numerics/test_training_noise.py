"""Offset, pyramid noise and input perturbation: spectra, variances, and whose draw is whose."""

import math

import pytest
import torch
from torch import Tensor

from sdlora.diffusion.training_noise import TrainingNoise
from sdlora.runtime.randomness import generator, normal

SHAPE = (4, 16, 16)
INDICES = torch.arange(500)
PLAIN = normal(SHAPE, 7, "noise", INDICES)


def eps(noise: TrainingNoise, indices: Tensor = INDICES) -> Tensor:
    return noise.eps(SHAPE, 7, indices)


def test_plain_noise_is_the_one_draw_that_it_always_was() -> None:
    noise = TrainingNoise()
    assert torch.equal(eps(noise), PLAIN)
    assert noise.perturbed(PLAIN, 7, INDICES) is PLAIN


def test_offset_is_one_number_a_channel() -> None:
    added = eps(TrainingNoise(offset=0.25)) - PLAIN
    # subtracting what was added leaves float32 roundings of numbers up to 5
    assert (added - added[..., :1, :1]).abs().max() < 1e-6
    numbers = added[..., 0, 0]
    # 2000 draws: the deviation of 0.25 is known to 0.25 / sqrt(4000) = 0.004
    assert numbers.std().item() == pytest.approx(0.25, abs=5 * 0.004)
    assert numbers.mean().item() == pytest.approx(0, abs=5 * 0.25 / math.sqrt(2000))
    channels = torch.corrcoef(numbers.T) - torch.eye(4)
    assert channels.abs().max() < 5 / math.sqrt(500)
    expected = 0.25 * normal((4, 1, 1), 7, "noise/offset", INDICES)
    torch.testing.assert_close(added, expected.expand_as(added), rtol=0, atol=1e-6)


def test_perturbed_noise_has_its_variance_and_leaves_eps() -> None:
    noise = TrainingNoise(perturbation=0.1)
    clean = eps(noise)
    assert torch.equal(clean, PLAIN)
    seen = noise.perturbed(clean, 7, INDICES)
    assert torch.equal(clean, PLAIN)
    # eps + gamma xi, so 1 + 0.1**2; half a million entries: known to sqrt(2 / 512 000) = 0.002
    assert seen.var().item() == pytest.approx(1.01 * PLAIN.var().item(), abs=5e-4)
    xi = (seen - clean) / 0.1
    assert xi.std().item() == pytest.approx(1, abs=0.01)
    assert abs((xi * clean).mean().item()) < 5 / math.sqrt(xi.numel())


def bilinear(coarse: Tensor, side: int) -> Tensor:
    """A row enlarged: half-pixel centres, edges repeated. Written out, for one dimension."""
    places = (torch.arange(side, dtype=torch.float64) + 0.5) * len(coarse) / side - 0.5
    places = places.clamp(0, len(coarse) - 1)
    left = places.floor().long()
    right = (left + 1).clamp(max=len(coarse) - 1)
    share = places - left
    return coarse[left] * (1 - share) + coarse[right] * share


@pytest.mark.parametrize("shape", [(4, 16, 16), (4, 8, 24)])
def test_pyramid_against_the_levels_written_out(shape: tuple[int, int, int]) -> None:
    discount, index = 0.5, 3
    noise = TrainingNoise(pyramid_iterations=4, pyramid_discount=discount)
    got = noise.eps(shape, 7, torch.tensor([index]))[0]
    total = normal(shape, 7, "noise", torch.tensor([index]))[0].double()
    draw = generator(7, "noise/pyramid", index)
    sizes = []
    for level in range(4):
        r = 2 + 2 * torch.rand((), generator=draw).item()
        height, width = (max(1, math.floor(side / r**level)) for side in shape[1:])
        sizes.append((height, width))
        coarse = torch.randn(1, shape[0], height, width, generator=draw)[0].double()
        for channel in range(shape[0]):
            rows = torch.stack([bilinear(row, shape[2]) for row in coarse[channel]])
            whole = torch.stack([bilinear(column, shape[1]) for column in rows.T]).T
            total[channel] += discount**level * whole
        if min(height, width) == 1:
            break
    assert sizes[0] == shape[1:]
    assert len(sizes) > 1
    torch.testing.assert_close(got.double(), total / total.std(), rtol=0, atol=2e-6)


def test_pyramid_noise_has_unit_variance_and_more_of_what_is_coarse() -> None:
    noise = eps(TrainingNoise(pyramid_iterations=6, pyramid_discount=0.6))
    assert noise.flatten(1).std(dim=1).tolist() == pytest.approx([1.0] * 500, abs=1e-5)
    power = torch.fft.fft2(noise).abs().square().mean(dim=(0, 1))
    plain = torch.fft.fft2(PLAIN).abs().square().mean(dim=(0, 1))
    ratio = power / plain
    assert ratio[0, 0] > 5 * ratio[8, 8]  # the mean, and the finest checkerboard
    assert ratio[8, 8] < 1


EVERY = {
    "offset": TrainingNoise(offset=0.1),
    "pyramid": TrainingNoise(pyramid_iterations=6),
    "perturbation": TrainingNoise(perturbation=0.1),
}


@pytest.mark.parametrize("name", EVERY)
def test_draws_are_a_function_of_seed_and_index(name: str) -> None:
    noise = EVERY[name]

    def whole(indices: Tensor, seed: int = 7) -> Tensor:
        return noise.perturbed(noise.eps(SHAPE, seed, indices), seed, indices)

    some = torch.tensor([9, 4, 30])
    together = whole(some)
    torch.randn(3)  # the global state takes no part
    alone = torch.cat([whole(index[None]) for index in some])
    assert torch.equal(together, alone)  # nor does who shares the batch
    assert not torch.equal(together, whole(some + 1))
    assert not torch.equal(together, whole(some, seed=8))
    assert not torch.equal(together, PLAIN[some])


@pytest.mark.parametrize("name", EVERY)
def test_noise_is_float32_whatever_the_compute_precision_is(name: str) -> None:
    noise, some = EVERY[name], torch.tensor([9, 4])
    exact = noise.perturbed(noise.eps(SHAPE, 7, some), 7, some)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = noise.perturbed(noise.eps(SHAPE, 7, some), 7, some)
    assert low.dtype == torch.float32
    assert torch.equal(low, exact)
