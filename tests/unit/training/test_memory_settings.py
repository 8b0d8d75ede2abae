"""Which settings make a step fit, by numbers worked by hand."""

from dataclasses import replace

import pytest

from sdlora.training.memory_settings import (
    Allowed,
    MemorySettings,
    StepMemory,
    candidates,
    chosen,
    fits,
    smaller_batches,
)
from sdlora.training.step_cost import StepCost

GIB = 2**30
NOW = MemorySettings(offload=False, gradient_checkpointing=False, batch_size=6, quantise=None)
KINDS = ("int8", "nf4")
ALL = Allowed(offload=True, gradient_checkpointing=True, smaller_batches=True, quantise=KINDS)
NONE = Allowed(offload=False, gradient_checkpointing=False, smaller_batches=False, quantise=())


def estimate(is_recomputed: bool) -> StepCost:
    """6 GiB of activations, 3 if they are recomputed; half a GiB for gradients and optimizer."""
    return StepCost(
        weights=4 * GIB,
        gradients=GIB // 4,
        states=GIB // 4,
        activations=(3 if is_recomputed else 6) * GIB,
        forward_flops=600,
        num_pictures=6,
    )


MEMORY = StepMemory(
    batch_size=6,
    estimate=estimate,
    idle_bytes=GIB,
    quantised_bytes={"int8": GIB, "nf4": 2 * GIB},
    streamed_bytes={None: 2 * GIB, "int8": GIB // 2},
    resolution_step=8,
)


def test_the_cost_of_each_setting() -> None:
    assert MEMORY.cost(NOW) == estimate(False)
    assert MEMORY.cost(replace(NOW, offload=True)).weights == 3 * GIB
    assert MEMORY.cost(replace(NOW, quantise="int8")).weights == 3 * GIB
    assert MEMORY.cost(replace(NOW, quantise="nf4")).weights == 2 * GIB
    assert MEMORY.cost(replace(NOW, blocks=True)).weights == 2 * GIB
    assert MEMORY.cost(replace(NOW, blocks=True, offload=True)).weights == GIB
    assert MEMORY.cost(replace(NOW, blocks=True, quantise="int8")).weights == 2.5 * GIB
    assert MEMORY.cost(replace(NOW, gradient_checkpointing=True)) == estimate(True)
    third = MEMORY.cost(replace(NOW, batch_size=2))
    assert (third.activations, third.forward_flops) == (2 * GIB, 200)
    assert third.weights == 4 * GIB
    assert third.num_pictures == 2
    # a batch of more pictures than an epoch shows of one size does not occur
    assert MEMORY.cost(replace(NOW, batch_size=64)) == estimate(False)


CHEAP = {"offload": True, "gradient_checkpointing": True}


# weights + 1.2 * (0.5 + activations), in GiB
@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (11.81, {}),
        (11.7, {"offload": True}),  # 10.8
        (10.7, {"offload": True, "gradient_checkpointing": True}),  # 7.2
        (7.1, {"offload": True, "gradient_checkpointing": True, "batch_size": 3}),  # 5.4
        (5.3, {"offload": True, "gradient_checkpointing": True, "batch_size": 2}),  # 4.8
        (4.3, {"offload": True, "gradient_checkpointing": True, "batch_size": 1}),  # 4.2
        (3.3, {**CHEAP, "batch_size": 1, "quantise": "int8"}),  # 3.2
        (3.1, {**CHEAP, "batch_size": 2, "quantise": "nf4"}),  # 2.8
    ],
)
def test_the_first_that_fits_is_chosen(room: float, expected: dict[str, object]) -> None:
    settings, is_enough = chosen(MEMORY, NOW, ALL, round(room * GIB))
    assert settings == replace(NOW, **expected)  # type: ignore[arg-type]
    assert is_enough


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (4.3, {"batch_size": 1}),  # which costs less time
        (4.1, {"batch_size": 3, "blocks": True}),  # 3.4
        (2.5, {"batch_size": 1, "blocks": True}),  # 2.2
    ],
)
def test_blocks_wait_after_smaller_batches_and_before_rounding(
    room: float, expected: dict[str, object]
) -> None:
    settings, is_enough = chosen(MEMORY, NOW, replace(ALL, blocks=True), round(room * GIB))
    assert settings == replace(NOW, **CHEAP, **expected)  # type: ignore[arg-type]
    assert is_enough


def test_layers_of_bitsandbytes_are_not_streamed() -> None:
    found = list(candidates(NOW, replace(ALL, blocks=True)))
    assert {each.blocks for each in found if each.quantise == "int8"} == {True}
    assert {each.blocks for each in found if each.quantise == "nf4"} == {False}


def test_where_none_fits_it_is_the_smallest() -> None:
    settings, is_enough = chosen(MEMORY, NOW, ALL, GIB)
    assert not is_enough
    assert settings == MemorySettings(
        offload=True, gradient_checkpointing=True, batch_size=1, quantise="nf4"
    )


@pytest.mark.parametrize("name", ["offload", "gradient_checkpointing", "quantise"])
def test_what_is_not_allowed_stays(name: str) -> None:
    kept = replace(ALL, **{name: () if name == "quantise" else False})  # type: ignore[arg-type]
    assert {getattr(each, name) for each in candidates(NOW, kept)} == {getattr(NOW, name)}


def test_batches_may_be_settled() -> None:
    sizes = {each.batch_size for each in candidates(NOW, replace(ALL, smaller_batches=False))}
    assert sizes == {6}
    assert list(candidates(NOW, NONE)) == [NOW]


def test_batches_divide_evenly() -> None:
    assert smaller_batches(12) == [6, 4, 3, 2, 1]
    assert smaller_batches(5) == [1]
    assert smaller_batches(1) == []


def test_smaller_weights_leave_more_room() -> None:
    cost = StepCost(
        weights=2 * GIB, gradients=0, states=0, activations=GIB, forward_flops=0, num_pictures=1
    )
    assert not fits(cost, room=3 * GIB)
    assert fits(replace(cost, weights=GIB), room=3 * GIB)
