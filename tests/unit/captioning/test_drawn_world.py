"""The embedded captioner on drawn portraits that no training has seen."""

import itertools

import torch

from sdlora.captioning.captioner import Compute, Wishes
from sdlora.captioning.drawn_world import described, load
from sdlora.world.portraits import (
    ATTRIBUTE_VALUES,
    HELD_OUT_SEEDS,
    attributes_named,
    portrait,
)

NUM_PORTRAITS = 100
LEAST_RIGHT = 0.97
CPU = Compute(torch.device("cpu"), torch.float32)


def named(caption: str) -> dict[str, str]:
    """All attributes; what a caption does not mention is not there."""
    return dict.fromkeys(ATTRIBUTE_VALUES, "none") | attributes_named(caption)


def test_it_names_nearly_all_attributes_of_unseen_portraits_rightly() -> None:
    drawn = [portrait(seed) for seed in HELD_OUT_SEEDS[:NUM_PORTRAITS]]
    captions = load(None, CPU, Wishes()).caption([each.image for each in drawn])
    right = [
        named(caption)[name] == value
        for caption, each in zip(captions, drawn, strict=True)
        for name, value in each.scene.attributes().items()
    ]
    assert len(right) == NUM_PORTRAITS * 8
    share = sum(right) / len(right)
    print(f"rightly named: {share:.2%}")
    assert share >= LEAST_RIGHT


def test_a_description_names_exactly_what_is_seen() -> None:
    """Of every combination of all attributes, colours of cloth aside, of which every one."""
    some = {
        name: values if name not in ("shirt", "background", "hat") else values[:2]
        for name, values in ATTRIBUTE_VALUES.items()
    }
    combinations = [
        dict(zip(some, values, strict=True)) for values in itertools.product(*some.values())
    ]
    first = combinations[0]
    combinations += [
        {**first, name: value} for name, values in ATTRIBUTE_VALUES.items() for value in values
    ]
    for seen in combinations:
        assert named(described(seen)) == seen
    assert described(first | {"shirt": "orange", "hat": "red", "beard": "yes", "smile": "yes"}) == (
        "a smiling man with black hair and a beard wearing an orange shirt and a red hat, white "
        "background"
    )
