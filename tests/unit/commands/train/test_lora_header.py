"""What a header says of the words."""

from sdlora.commands.train.lora_header import tag_frequency


def test_tags_are_counted_once_a_caption() -> None:
    captions = ["hat, red hat, hat", "hat ,\nsea", "", "a man, smiling"]
    assert tag_frequency(captions, ",") == {
        "hat": 2, "red hat": 1, "sea": 1, "a man": 1, "smiling": 1,
    }  # fmt: skip
    assert list(tag_frequency(captions, ","))[0] == "hat"
    assert tag_frequency(["a; b, c"], ";") == {"a": 1, "b, c": 1}
    assert len(tag_frequency([f"tag {number}" for number in range(5000)], ",")) == 1000
