"""Captions are read whole, refused with a reason, and vary as a function of the sample alone."""

import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from sdlora.config.captions import CaptionsConfig
from sdlora.config.rules import ConfigError
from sdlora.data.captions.caption_text import (
    MAX_CAPTION_BYTES,
    CaptionError,
    check_caption_text,
    read_caption_text,
)
from sdlora.data.captions.recipe import (
    check_frame,
    has_broken_wildcard,
    is_static,
    sample_caption,
    split_tags,
    static_caption,
)
from sdlora.runtime.randomness import uniform
from tests.configs import captions_config as recipe_of

SAMPLES = 2000
TAGS = "ohwx, hat, scarf, smile, beard"
POSSIBLE = {"", "ohwx", "hat", "red tie", "blue tie", "été", "x"}


def write(folder: Path, data: bytes) -> Path:
    path = folder / "a.txt"
    path.write_bytes(data)
    return path


def drawn(recipe: CaptionsConfig, text: str, seed: int = 0, count: int = SAMPLES) -> list[str]:
    return [sample_caption(recipe, text, "", seed, index) for index in range(count)]


def assert_frequency(hits: int, count: int, probability: float) -> None:
    """Within five standard deviations of the binomial distribution: fails once in 10^6 draws."""
    spread = (count * probability * (1 - probability)) ** 0.5
    assert abs(hits - count * probability) <= 5 * spread


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a man", "a man"),
        (b"\xef\xbb\xbfa man\r\n", "a man"),  # byte order mark, CRLF
        (b"a man\n\n  in a red hat \r\nsmiling", "a man\nin a red hat\nsmiling"),
        (b"old\rMac", "old\nMac"),
        ("الرجل".encode(), "الرجل"),
        ("a café".encode(), "a café"),
        (b" ".join([b"word"] * 5000), " ".join(["word"] * 5000)),
    ],
)
def test_lines_are_kept_and_stripped(tmp_path: Path, data: bytes, text: str) -> None:
    assert read_caption_text(write(tmp_path, data)) == text
    assert check_caption_text(data.decode()) == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        ("\u200b".encode(), "empty"),  # a zero-width space shows nothing
        (b"a caf\xe9", "byte 0xe9 at offset 5"),
        ("a man".encode("utf-16"), "UTF-16"),
        (b"a\0man", "NUL"),
        (b"a man<|endoftext|> in a hat", r"<\|endoftext\|>"),
        (b"a" * (MAX_CAPTION_BYTES + 1), "65537 bytes"),
    ],
)
def test_what_is_no_caption_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(CaptionError, match=reason):
        read_caption_text(write(tmp_path, data))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("a\0man", "NUL"),
        ("<|startoftext|>", r"<\|startoftext\|>"),
        ("\u00e9" * (MAX_CAPTION_BYTES // 2 + 1), "65538 bytes"),
        ("a \ud83d man", "surrogate pair at character 2"),  # as JSON can hold and UTF-8 cannot
    ],
)
def test_texts_from_elsewhere_are_checked_alike(text: str, reason: str) -> None:
    with pytest.raises(CaptionError, match=reason):
        check_caption_text(text)


@pytest.mark.parametrize(
    ("options", "caption"),
    [
        ({}, "a man in a hat"),
        ({"lines": "first"}, "a man"),
        ({"prefix": "photo of", "suffix": ", 4k"}, "root photo of a man in a hat, 4k"),
        ({"tags": True}, "a man, in a hat"),
        ({"tags": True, "prefix": "ohwx, "}, "root, ohwx, a man, in a hat"),
        ({"tags": True, "separator": " | "}, "a man | in a hat"),
    ],
)
def test_static_captions(options: dict, caption: str) -> None:
    recipe = recipe_of(**options)
    root = "root" if "prefix" in options else ""
    assert is_static(recipe)
    assert static_caption(recipe, "a man\nin a hat", root) == caption
    assert sample_caption(recipe, "a man\nin a hat", root, 3, 17) == caption


def test_an_empty_text_leaves_the_prefixes() -> None:
    assert static_caption(recipe_of(prefix="ohwx"), "", "in the style of") == (
        "in the style of ohwx"
    )
    assert static_caption(recipe_of(tags=True), "") == ""


@pytest.mark.parametrize("text", ["a,b", " a ,, b,", "a\nb", ",a\n,b,\n"])
def test_tags_are_split_without_spaces(text: str) -> None:
    assert split_tags(recipe_of(tags=True), text) == ["a", "b"]
    assert static_caption(recipe_of(tags=True), text) == "a, b"


@pytest.mark.parametrize(
    "options",
    [{"lines": "random"}, {"wildcards": True}, {"shuffle": True}, {"tag_dropout": 0.1}],
)
def test_what_varies_is_not_static(options: dict) -> None:
    recipe = recipe_of(tags=True, **options)
    assert not is_static(recipe)
    with pytest.raises(AssertionError, match="differ from sample to sample"):
        static_caption(recipe, "a")


def test_dropout_of_the_whole_leaves_a_recipe_static() -> None:
    recipe = recipe_of(dropout=0.5, prefix="ohwx")
    assert is_static(recipe)
    assert static_caption(recipe, "a man") == "ohwx a man"
    assert set(drawn(recipe, "a man", count=50)) == {"", "ohwx a man"}


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.7])
@pytest.mark.parametrize("seed", [0, 7])
def test_dropout_draws_as_before(probability: float, seed: int) -> None:
    recipe = recipe_of(dropout=probability)
    dropped = [caption == "" for caption in drawn(recipe, "a man", seed)]
    old = uniform(seed, "caption_dropout", torch.arange(SAMPLES)) < probability
    assert dropped == old.tolist()
    assert_frequency(sum(dropped), SAMPLES, probability)


def test_dropout_compares_in_single_precision_as_before() -> None:
    draw = uniform(0, "caption_dropout", torch.tensor([5]))
    just_above = math.nextafter(draw.item(), 1.0)  # equal in float32, where the old test compared
    assert sample_caption(recipe_of(dropout=just_above), "a man", "", 0, 5) == "a man"
    assert not bool(draw < just_above)


def test_each_line_is_as_likely() -> None:
    counts = Counter(drawn(recipe_of(lines="random"), "one\ntwo\nthree"))
    assert counts.keys() == {"one", "two", "three"}
    for hits in counts.values():
        assert_frequency(hits, SAMPLES, 1 / 3)


def test_each_alternative_is_as_likely_and_drawn_by_itself() -> None:
    recipe = recipe_of(wildcards=True)
    counts = Counter(drawn(recipe, "a {red|green|blue} hat, {old|new}"))
    assert len(counts) == 6
    for hits in counts.values():
        assert_frequency(hits, SAMPLES, 1 / 6)


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("a {|big} hat", {"a hat", "a big hat"}),
        ("{{red|blue}} {a|b}", {"{red|blue} a", "{red|blue} b"}),
        ("a {cat}", {"a {cat}"}),
        ("{{cat}} {}", {"{{cat}} {}"}),
        ("a {cat} | {x|y}", {"a {cat} | x", "a {cat} | y"}),
        ("{red|blue", {"{red|blue"}),
        ("red|blue}", {"red|blue}"}),
        ("{red|{blue|green}}", {"{red|{blue|green}}"}),
    ],
)
def test_wildcards_and_what_is_none(text: str, captions: set[str]) -> None:
    assert set(drawn(recipe_of(wildcards=True), text, count=60)) == captions
    assert set(drawn(recipe_of(), text, count=3)) == {text}


@pytest.mark.parametrize("text", ["{a|b", "a|b}", "{a|{b|c}}", "}{|", "{x|y} {z|"])
def test_broken_wildcards_are_known(text: str) -> None:
    assert has_broken_wildcard(text)


@pytest.mark.parametrize("text", ["{a|b}", "{{a|b}}", "a|b", "{a}", "{", "}{", "a {b} | {c|d}", ""])
def test_sound_wildcards_are_not_broken(text: str) -> None:
    assert not has_broken_wildcard(text)


def test_shuffled_tags_are_permutations_that_keep_the_first() -> None:
    recipe = recipe_of(tags=True, shuffle=True, keep_tokens=2)
    orders = Counter(drawn(recipe, TAGS))
    assert len(orders) == 6  # of the three that are free
    for caption, hits in orders.items():
        assert caption.startswith("ohwx, hat, ")
        assert sorted(caption.split(", ")) == sorted(TAGS.split(", "))
        assert_frequency(hits, SAMPLES, 1 / 6)


def test_tag_dropout_spares_the_first_and_the_prefix() -> None:
    recipe = recipe_of(tags=True, tag_dropout=0.3, keep_tokens=1, prefix="sks")
    captions = [caption.split(", ") for caption in drawn(recipe, TAGS)]
    assert all(tags[:2] == ["sks", "ohwx"] for tags in captions)
    for tag in TAGS.split(", ")[1:]:
        assert_frequency(sum(tag not in tags for tags in captions), SAMPLES, 0.3)
    free = TAGS.split(", ")[1:]
    assert all([t for t in free if t in tags] == tags[2:] for tags in captions)  # order stays


def test_all_tags_can_be_dropped() -> None:
    recipe = recipe_of(tags=True, tag_dropout=0.999)
    assert sample_caption(recipe, TAGS, "root", 0, 0) == "root"
    assert sample_caption(recipe_of(tags=True, shuffle=True, keep_tokens=9), TAGS, "", 0, 0) == TAGS


def test_a_caption_depends_on_seed_and_sample_alone() -> None:
    options = {"lines": "random", "wildcards": True, "shuffle": True, "tag_dropout": 0.2}
    recipe = recipe_of(tags=True, dropout=0.1, **options)
    rng = random.Random(0)
    for _ in range(200):
        tags = [rng.choice(["hat", "{red|blue} tie", "été", "x"]) for _ in range(rng.randint(1, 9))]
        text = "".join(tag + rng.choice([", ", "\n", ","]) for tag in tags)
        seed, index = rng.randint(0, 9), rng.randint(0, 10**9)
        caption = sample_caption(recipe, text, "ohwx", seed, index)
        drawn(recipe, text, seed + 1, count=3)  # draws of others change nothing
        assert sample_caption(recipe, text, "ohwx", seed, index) == caption
        assert caption == "" or caption.startswith("ohwx")
        assert set(caption.split(", ")) <= POSSIBLE
    assert sample_caption(recipe, TAGS, "", 0, 1) != sample_caption(recipe, TAGS, "", 1, 1)
    assert torch.initial_seed() == 0  # the global generator was left alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": "<|endoftext|>"}, r"data\.captions\.prefix=.*remove it"),
        ({"suffix": "\0a"}, r"data\.captions\.suffix=.*NUL"),
    ],
)
def test_what_stands_around_captions_is_checked_as_they_are(options: dict, message: str) -> None:
    check_frame(recipe_of(prefix=" ", suffix=", 4k"))
    with pytest.raises(ConfigError, match=message):
        check_frame(recipe_of(**options))
