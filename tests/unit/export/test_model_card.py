"""The model card, read by the Hub's own reader."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from sdlora.evaluation.scores import Scores
from sdlora.export.model_card import write_model_card

PROMPTS = ('a man: "smiling"', "ein Hut \u2014 rot", "", "- a\n- list", "a fifth")


def card(folder: Path, **given: object) -> tuple[ModelCard, list[Path]]:
    arguments: dict = {
        "name": "my face",
        "family": "stable-diffusion",
        "base_model": "owner/base",
        "trigger": "sks man",
        "samples": [(text, Image.new("RGB", (8, 8), (i, 0, 0))) for i, text in enumerate(PROMPTS)],
        "licence": "apache-2.0",
        "facts": {"Steps": "7"},
        "scores": {
            "base": Scores(4, {"x": 20.0}),
            "LoRA": Scores(4, {"x": 25.5, "faceless": None}),
        },
        **given,
    }
    files = write_model_card(folder, **arguments)
    return ModelCard.load(folder / "README.md"), files


@pytest.mark.parametrize("family", ["stable-diffusion", "stable-diffusion-xl"])
def test_the_hub_reads_it(family: str, tmp_path: Path) -> None:
    found, files = card(tmp_path, family=family)
    data = found.data.to_dict()
    assert data["base_model"] == "owner/base"
    assert data["instance_prompt"] == "sks man"
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "diffusers"
    assert data["tags"] == [
        "text-to-image", "diffusers", "diffusers-training", "lora", family,
        f"{family}-diffusers", "template:sd-lora",
    ]  # fmt: skip
    assert [each["text"] for each in data["widget"]] == [text or " " for text in PROMPTS[:4]]
    urls = [each["output"]["url"] for each in data["widget"]]
    assert files == [tmp_path / "README.md", *(tmp_path / url for url in urls)]
    with Image.open(tmp_path / urls[1]) as image:
        assert image.getpixel((0, 0)) == (1, 0, 0)
    assert "| Steps | 7 |" in found.text
    assert "| | base | LoRA |\n|---|---|---|\n| pictures | 4 | 4 |\n" in found.text
    assert "| x | 20.000 | 25.500 |" in found.text
    assert "faceless" not in found.text
    assert "`sks man`" in found.text
    assert "`my face.safetensors`" in found.text


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    found, files = card(
        tmp_path, base_model=None, trigger=None, samples=[], licence=None, scores={}
    )
    assert files == [tmp_path / "README.md"]
    assert not found.data.to_dict().keys() & {"base_model", "instance_prompt", "widget"}
    assert found.data.license == "unknown"  # a field to be filled in
    assert "## Scores" not in found.text
    assert "None" not in (tmp_path / "README.md").read_text("utf-8")
