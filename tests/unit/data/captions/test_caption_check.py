"""What is odd about the captions of a set is said, picture by picture."""

import pytest

from sdlora.data.captions.caption_check import caption_findings, frequent_words
from sdlora.data.pictures.picture import WARNING, Picture
from tests.configs import captions_config as recipe_of


def pictures(*texts: str, prefix: str = "") -> list[Picture]:
    return [
        Picture(name=f"{index}.png", size=(8, 8), text=text, content="", prefix=prefix)
        for index, text in enumerate(texts)
    ]


def test_cuts_are_quoted() -> None:
    shown = pictures("long", "short", "longer")
    findings = caption_findings(shown, recipe_of(), [" in a hat", "", "x " * 200])
    assert [(f.name, f.kind, f.severity) for f in findings] == [
        ("0.png", "cut_caption", WARNING),
        ("2.png", "cut_caption", WARNING),
    ]
    assert str(findings[0]).startswith(
        '0.png: too long for the tokenizer, which cuts "in a hat"; shorten it'
    )
    assert '..." (200 words)' in findings[1].reason
    assert len(findings[1].reason) < 300
    with pytest.raises(ValueError, match="shorter"):
        caption_findings(shown, recipe_of(), [""])


def test_shared_captions_are_one_finding_for_each_text() -> None:
    shown = pictures("a man", "a hat", "a man", "", "", "a man", "a man", "a man", "a hat")
    findings = caption_findings(shown, recipe_of(), [""] * len(shown))
    assert [(f.name, f.kind) for f in findings] == [
        ("0.png", "same_caption"),
        ("1.png", "same_caption"),
    ]
    assert '4 other picture(s) (2.png, 5.png, 6.png, ...), "a man"' in findings[0].reason
    assert '1 other picture(s) (8.png), "a hat"' in findings[1].reason


def test_a_caption_that_the_config_gives_may_be_shared() -> None:
    shown = pictures("a man", "a photo", "a man", "a photo")
    findings = caption_findings(shown, recipe_of(), [""] * 4, meant={"a photo"})
    assert [finding.name for finding in findings] == ["0.png"]


def test_one_text_behind_two_prefixes_is_two_captions() -> None:
    shown = [*pictures("a man", prefix="ohwx"), *pictures("a man", prefix="sks")]
    assert caption_findings(shown, recipe_of(), ["", ""]) == []


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("a man, (blue eyes:1.2), (hat)", "(blue eyes:1.2)"),
        ("a man <lora:detail:0.8>", "<lora:detail:0.8>"),
        ("a man BREAK a dog", "BREAK"),
        (r"miku \(vocaloid\), 1girl", "\\("),
        ("a man\nNegative prompt: ugly", "Negative prompt:"),
        ("a man\nSteps: 20, Sampler: Euler a", "Steps: 20, Sampler:"),
    ],
)
def test_orders_to_programs_that_draw_are_named(text: str, order: str) -> None:
    (finding,) = caption_findings(pictures(text), recipe_of(), [""])
    assert (finding.name, finding.kind, finding.severity) == ("0.png", "prompt_syntax", WARNING)
    assert finding.reason.startswith(f'holds "{order}", an order to a program that draws')


def test_plain_words_are_no_orders() -> None:
    shown = pictures("a man (in a hat) at 12:30", "the break of day", "a <small> sign")
    assert caption_findings(shown, recipe_of(), [""] * 3) == []


def test_broken_wildcards_are_named_where_wildcards_are_read() -> None:
    shown = pictures("a {red|blue hat", "a {red|blue} hat")
    (finding,) = caption_findings(shown, recipe_of(wildcards=True), ["", ""])
    assert (finding.name, finding.kind) == ("0.png", "broken_wildcard")
    assert "{red|blue hat" in finding.reason
    assert caption_findings(shown, recipe_of(), ["", ""]) == []


def test_frequent_words_leave_out_the_common_ones() -> None:
    shown = pictures("A man in a red hat", "the man's hat\nHAT!", "{red|blue} café")
    assert frequent_words(shown, recipe_of(), count=3) == [("hat", 3), ("red", 2), ("blue", 1)]
    assert ("man's", 1) in frequent_words(shown, recipe_of())
    assert frequent_words([], recipe_of()) == []


def test_frequent_tags_are_whole() -> None:
    shown = pictures("red hat, in the sun", "Red Hat,smile\nin the sun", "red hat")
    assert frequent_words(shown, recipe_of(tags=True)) == [
        ("red hat", 3),
        ("in the sun", 2),
        ("smile", 1),
    ]
