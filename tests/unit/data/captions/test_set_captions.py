"""Captions of a set: each different one once, in rows that pictures and dropped samples share."""

import torch

from sdlora.data.captions.set_captions import SetCaptions
from sdlora.data.pictures.picture import Picture
from sdlora.runtime.randomness import chance, uniform
from tests.configs import captions_config
from tests.unit.data.stripes import tokenize

PICTURES = [
    Picture(f"{number}.png", (8, 8), text, f"{number:064x}", prefix="sks")
    for number, text in enumerate(["a 1", "a 2", "a 1"])
]


def test_equal_captions_are_one_row_and_the_first_is_empty() -> None:
    captions = SetCaptions(PICTURES, captions_config(), tokenize, seed=0)
    assert captions.is_static
    assert captions.texts == ("", "sks a 1", "sks a 2")
    assert captions.token_ids[:, 0].tolist() == [0, 2, 3]
    assert captions.rows(torch.tensor([2, 1, 0]), torch.arange(3)).tolist() == [1, 2, 1]


def test_dropped_samples_have_the_empty_row() -> None:
    captions = SetCaptions(PICTURES, captions_config(dropout=0.4), tokenize, seed=3)
    samples = torch.arange(200)
    rows = captions.rows(torch.ones(200, dtype=torch.int64), samples)
    dropped = uniform(3, "caption_dropout", samples) < 0.4
    assert torch.equal(rows, torch.where(dropped, 0, 2))
    assert 0 < dropped.sum() < 200


def test_captions_that_vary_are_drawn_by_sample() -> None:
    recipe = captions_config(wildcards=True)
    varied = [Picture("a.png", (8, 8), "a {1|2}", "0")]
    captions = SetCaptions(varied, recipe, tokenize, seed=0)
    assert (captions.is_static, captions.texts) == (False, ("",))
    first = captions.sample_token_ids(torch.zeros(40, dtype=torch.int64), torch.arange(40))
    assert set(first[:, 0].tolist()) == {2, 3}
    later = captions.sample_token_ids(torch.zeros(20, dtype=torch.int64), torch.arange(20, 40))
    assert torch.equal(later, first[20:])


def test_a_chance_of_nothing_draws_nothing() -> None:
    assert not chance(0, "flip", torch.arange(50), 0.0).any()
    half = chance(0, "flip", torch.arange(50), 0.5)
    assert torch.equal(half, uniform(0, "flip", torch.arange(50)) < 0.5)
    assert 0 < half.sum() < 50
