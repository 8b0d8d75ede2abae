"""What a header says of the base and the words."""

import pytest

from sdlora.commands.train.lora_header import (
    base_names,
    tag_frequency,
)


@pytest.mark.parametrize(
    ("family", "width", "prediction", "names"),
    [  # as kohya's trainer and ModelSpec's list of architectures have them
        ("sd", 768, "epsilon", ("sd_v1", "stable-diffusion-v1/lora")),
        ("sd", 64, "epsilon", ("sd_v1", "stable-diffusion-v1/lora")),
        ("sd", 768, "v_prediction", ("sd_v1_v", "stable-diffusion-v1/lora")),
        ("sd", 1024, "epsilon", ("sd_v2", "stable-diffusion-v2-512/lora")),
        ("sd", 1024, "v_prediction", ("sd_v2_v", "stable-diffusion-v2-768-v/lora")),
        ("sdxl", 768, "epsilon", ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora")),
        ("mine", 0, "epsilon", ("mine", "mine/lora")),
    ],
)
def test_names_of_the_base(
    family: str, width: int, prediction: str, names: tuple[str, str]
) -> None:
    assert base_names(family, width, prediction) == names


def test_tags_are_counted_once_a_caption() -> None:
    captions = ["hat, red hat, hat", "hat ,\nsea", "", "a man, smiling"]
    assert tag_frequency(captions, ",") == {
        "hat": 2, "red hat": 1, "sea": 1, "a man": 1, "smiling": 1,
    }  # fmt: skip
    assert list(tag_frequency(captions, ","))[0] == "hat"
    assert tag_frequency(["a; b, c"], ";") == {"a": 1, "b, c": 1}
    assert len(tag_frequency([f"tag {number}" for number in range(5000)], ",")) == 1000
