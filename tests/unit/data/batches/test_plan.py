"""The plan of batches: every sample exactly as often as it repeats, wherever one starts."""

import random
from collections import Counter

import pytest
import torch

from sdlora.data.batches.plan import BatchPlan


def random_plan(seed: int) -> tuple[BatchPlan, list[int], list[int], int]:
    draw = random.Random(seed)
    num = draw.randrange(1, 60)
    buckets = [draw.randrange(draw.choice([1, 3, 7])) for _ in range(num)]
    repeats = [draw.choice([1, 1, 1, 2, 5]) for _ in range(num)]
    size = draw.randrange(1, 9)
    return BatchPlan(buckets, repeats, size, seed), buckets, repeats, size


@pytest.mark.parametrize("seed", range(30))
def test_each_epoch_shows_every_sample_as_often_as_it_repeats(seed: int) -> None:
    plan, buckets, repeats, size = random_plan(seed)
    next_index = 0
    for epoch in range(3):
        seen: Counter[int] = Counter()
        for place in range(plan.batches_per_epoch):
            draw = plan.draw(epoch * plan.batches_per_epoch + place)
            assert draw.first == next_index
            assert 1 <= len(draw.pictures) <= size
            assert len({buckets[picture] for picture in draw.pictures.tolist()}) == 1
            seen.update(draw.pictures.tolist())
            next_index += len(draw.pictures)
        assert [seen[picture] for picture in range(len(repeats))] == repeats
        assert next_index == (epoch + 1) * plan.num_samples == (epoch + 1) * sum(repeats)


@pytest.mark.parametrize("seed", range(10))
def test_a_batch_is_known_from_its_number(seed: int) -> None:
    plan, *_ = random_plan(seed)
    numbers = list(range(4 * plan.batches_per_epoch))
    forwards = {number: plan.draw(number) for number in numbers}
    again, *_ = random_plan(seed)
    random.Random(seed).shuffle(numbers)
    for number in numbers:
        other = again.draw(number)
        assert torch.equal(other.pictures, forwards[number].pictures)
        assert torch.equal(other.sample_index, forwards[number].sample_index)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        plan = BatchPlan([0] * 20, [1] * 20, 4, seed)
        return torch.cat([plan.draw(5 * epoch + place).pictures for place in range(5)]).tolist()

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(item) for item in orders}) == 6
    assert order(0, 1) == orders[1]


def test_batches_of_all_buckets_are_mixed() -> None:
    plan = BatchPlan([0] * 40 + [1] * 40, [1] * 80, 4, seed=0)
    kinds = [int(plan.draw(number).pictures[0] >= 40) for number in range(20)]
    changes = sum(a != b for a, b in zip(kinds, kinds[1:], strict=False))
    assert changes > 4  # one after the other would be 1


@pytest.mark.parametrize("window", [1, 2, 3, 8])
def test_shares_make_the_mean_over_all_samples_of_a_window(window: int) -> None:
    plan = BatchPlan([0] * 7 + [1] * 4, [1] * 11, 3, seed=3)  # batches of 3, 3, 1 and 3, 1
    losses = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).double()
    for step in range(12):
        numbers = range(step * window, (step + 1) * window)
        draws = [plan.draw(number) for number in numbers]
        accumulated = sum(
            losses[draw.sample_index].mean() * plan.share(number, window) / window
            for number, draw in zip(numbers, draws, strict=True)
        )
        whole = losses[torch.cat([draw.sample_index for draw in draws])].mean()
        assert float(accumulated) == pytest.approx(float(whole), rel=1e-12)


def test_even_batches_have_a_share_of_exactly_one() -> None:
    plan = BatchPlan([0] * 8, [3] * 8, 4, seed=0)
    assert {plan.share(number, 3) for number in range(12)} == {1.0}


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(ValueError, match="no picture"):
        BatchPlan([], [], 4, 0)
