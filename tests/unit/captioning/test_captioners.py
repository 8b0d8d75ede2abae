"""Each class of captioners on a random model in the layout of the Hub."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sdlora.captioning.captioner import Compute, Wishes
from sdlora.captioning.captioners import CAPTIONERS, chosen_captioner
from sdlora.captioning.network_loading import CaptionerError
from sdlora.captioning.vision_language import load_vision_language
from tests.captioners import write_random_blip, write_random_florence2, write_random_qwen_vl

CPU = Compute(torch.device("cpu"), torch.float32)
WRITERS: dict[str, Callable[[Path], Path]] = {
    "blip": write_random_blip,
    "florence2": write_random_florence2,
    "vlm": write_random_qwen_vl,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("captioners")
    return {name: write(root / name) for name, write in WRITERS.items()}


def pictures() -> list[Image.Image]:
    wide = Image.linear_gradient("L").convert("RGB").resize((60, 24))
    return [Image.new("RGB", (40, 30), "red"), wide, Image.new("RGB", (33, 64), "blue")]


@pytest.mark.parametrize("name", WRITERS)
def test_a_batch_gives_what_each_picture_gives_alone(name: str, models: dict[str, Path]) -> None:
    """Unlike sizes and padding change nothing, and the picture changes the words."""
    chosen = chosen_captioner(str(models[name]))
    assert chosen.kind is CAPTIONERS[name], "the class is that of the files"
    captioner = chosen.kind.loader()(chosen.place(), CPU, Wishes(max_new_tokens=6))
    together = captioner.caption(pictures())
    assert together == [captioner.caption([each])[0] for each in pictures()]
    assert len(set(together)) > 1, together
    assert captioner.caption(pictures()) == together
    shorter = chosen.kind.loader()(chosen.place(), CPU, Wishes(max_new_tokens=1))
    assert all(len(a) <= len(b) for a, b in zip(shorter.caption(pictures()), together, strict=True))


def test_an_instruction_is_what_a_vlm_and_florence_are_asked(models: dict[str, Path]) -> None:
    for name, instruction in (("vlm", "What colour?"), ("florence2", "caption")):
        kind, texts = CAPTIONERS[name], []
        for asked in (None, instruction):
            wishes = Wishes(instruction=asked, max_new_tokens=8)
            texts.append(kind.loader()(models[name], CPU, wishes).caption(pictures()))
        assert texts[0] != texts[1], name


def test_a_chat_holds_picture_and_question_and_ends_before_the_answer(
    models: dict[str, Path],
) -> None:
    model = load_vision_language(models["vlm"], CPU)
    inputs = model.chats(pictures()[:2], "What is it?")
    whole = model.processor.tokenizer.batch_decode(inputs["input_ids"])
    for text in whole:
        assert text.endswith("What is it?<|im_end|>\n<|im_start|>assistant\n")
    patches = inputs["image_grid_thw"].prod(dim=1) // 4
    assert [text.count("<|image_pad|>") for text in whole] == patches.tolist()
    assert inputs["attention_mask"][:, -1].all(), "padded on the left"


def test_what_is_no_whole_captioner_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="blpi: no captioner.*did you mean blip"):
        chosen_captioner("blpi")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no readable config\.json of a model"):
        chosen_captioner(str(tmp_path / "empty"))
    cut = shutil.copytree(models["blip"], tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="a download that broke off"):
        chosen_captioner(str(cut))


def test_a_model_that_lacks_a_tensor_or_a_template_is_refused(
    models: dict[str, Path], tmp_path: Path
) -> None:
    mute = write_random_qwen_vl(tmp_path / "mute", template=None)
    with pytest.raises(CaptionerError, match="has no chat template"):
        load_vision_language(mute, CPU)
    config = models["florence2"] / "config.json"
    own_code = tmp_path / "own_code"
    own_code.mkdir()
    (own_code / "config.json").write_text(
        json.dumps({**json.loads(config.read_text("utf-8")), "auto_map": {"AutoConfig": "x.Y"}})
    )
    with pytest.raises(CaptionerError, match="take one in transformers' layout"):
        CAPTIONERS["florence2"].loader()(own_code, CPU, Wishes())
    lacking = shutil.copytree(models["blip"], tmp_path / "lacking")
    tensors = load_file(lacking / "model.safetensors")
    name = next(name for name in tensors if "vision_model" in name)
    rest = {key: value for key, value in tensors.items() if key != name}
    save_file(rest, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(CaptionerError, match=f"weights are missing or misshapen: {name}"):
        CAPTIONERS["blip"].loader()(lacking, CPU, Wishes())
