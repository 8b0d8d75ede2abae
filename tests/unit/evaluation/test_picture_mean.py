"""The mean of one number a picture: by hand, over several updates, and from the start again."""

import math

import pytest
import torch
from torch import Tensor

from sdlora.evaluation.interval import bootstrap_interval
from sdlora.evaluation.picture_mean import PictureMean


class Doubled(PictureMean):
    """Twice the number."""

    def update(self, values: Tensor) -> None:
        self.take(2 * values)


def metric(*updates: list[float]) -> Doubled:
    doubled = Doubled()
    for values in updates:
        doubled.update(torch.tensor(values))
    return doubled


def test_mean_and_each_by_hand():
    found = metric([1.0, 2.0, 6.0])
    assert found.each().tolist() == [2.0, 4.0, 12.0]
    assert found.each().dtype == torch.float64
    assert found.compute().item() == 6.0
    exact = Doubled()
    exact.update(torch.tensor([0.1], dtype=torch.float64))
    assert exact.compute().item() == 0.2  # float32 would give 0.20000000298


def test_several_updates_are_one_and_none_is_lost():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(101, generator=generator).tolist()
    whole = metric(values)
    parts = metric(values[:1], [], values[1:64], values[64:])
    assert torch.equal(parts.each(), whole.each())
    assert parts.compute() == whole.compute()  # to the bit
    assert parts.compute().item() == pytest.approx(2 * math.fsum(values) / 101, rel=1e-15)
    parts.update(torch.tensor([1000.0]))  # a mean that was computed is not kept
    assert parts.compute() > whole.compute() + 1


def test_a_reset_begins_again():
    found = metric([5.0, 7.0])
    assert found.compute().item() == 12.0
    found.reset()
    assert len(found.each()) == 0
    found.update(torch.tensor([1.0]))
    assert found.compute().item() == 2.0
    assert found.each().tolist() == [2.0]


def test_the_interval_is_of_all_pictures():
    found = metric([1.0, 2.0], [6.0])
    assert found.interval() == bootstrap_interval([2.0, 4.0, 12.0])
    low, high = found.interval()
    assert 2 <= low < 6 < high <= 12
    assert metric([3.0]).interval() == (6.0, 6.0)
    with pytest.raises(ValueError, match="at least one number"):
        metric([]).interval()


def test_no_picture_has_no_mean():
    assert math.isnan(metric([]).compute().item())


def test_numbers_leave_the_graph():
    weight = torch.ones(3, requires_grad=True)
    found = Doubled()
    found.update(weight)
    assert not found.compute().requires_grad
