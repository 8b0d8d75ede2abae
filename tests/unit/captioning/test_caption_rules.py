"""From a captioner's raw text to a caption."""

import pytest

from sdlora.captioning.caption_rules import CaptionRules, appended, one_line, shortened


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ("  a man\n\twith\x00 a hat\r\n", "a man with a hat"),
        ("</s><s>a cat</s><pad>", "a cat"),
        ("a dog<|im_end|>\x1b[0m", "a dog [0m"),
        ("\ufeffé\u2028ü", "é ü"),
    ],
)
def test_a_text_is_one_line_without_control_characters(raw: str, line: str) -> None:
    assert one_line(raw) == line


def test_words_are_replaced_forbidden_and_framed() -> None:
    rules = CaptionRules(
        replaced=(("a picture of", ""), ("guy", "man")),
        forbidden=("blurry",),
        template="{caption}, ink drawing",
        trigger_word="ohwx",
    )
    text = rules.applied("A picture of a guy, blurry , in a guyana shirt.")
    assert text == "a man, in a guyana shirt, ink drawing"
    assert rules.with_trigger(text) == f"ohwx, {text}"
    assert rules.with_trigger("portrait of OHWX") == "portrait of OHWX"
    assert rules.applied("a picture of") == "", "the template alone is no caption"
    assert rules.applied(" blurry, ,") == ""
    literal = CaptionRules(replaced=(("a.b", r"\1"),))
    assert literal.applied("a.b axb") == r"\1 axb"


def test_of_tags_whole_ones_are_forbidden_and_doubles_go() -> None:
    rules = CaptionRules(forbidden=("hair", "simple background"), is_tags=True)
    assert rules.applied("long hair, hair, Simple Background, hat, hat") == "long hair, hat"


def test_a_caption_is_cut_between_words_or_tags_and_never_more_than_needed() -> None:
    def fits(text: str) -> bool:
        return len(text) <= 12

    assert shortened("a short one", fits, is_tags=False) == "a short one"
    assert shortened("one two three four", fits, is_tags=False) == "one two"
    assert shortened("one two, th, four five", fits, is_tags=True) == "one two, th"
    assert shortened("one two, three", fits, is_tags=False) == "one two"


def test_a_text_is_appended_once() -> None:
    assert appended("a man", "red hat", is_tags=False) == "a man, red hat"
    assert appended("A man.", "Red hat.", is_tags=False) == "A man. Red hat."
    assert appended("A man. Red hat.", "Red hat.", is_tags=False) == "A man. Red hat."
    once = appended("man,\nHat", "hat, hair", is_tags=True)
    assert once == "man,\nHat, hair"
    assert appended(once, "hat, hair", is_tags=True) == once
