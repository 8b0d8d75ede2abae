"""CLIP score against its formula and against transformers' own logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdlora.evaluation.clip_metric import ClipScore, load_clip


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (4, 40, 48, 3), dtype=np.uint8)
    return [Image.fromarray(picture) for picture in noise]


PROMPTS = ["a cat", "red hat", "man", "a"]


@torch.no_grad()
def reference_cosines(folder: Path, images, prompts) -> torch.Tensor:
    """100 * cosine from CLIPModel.forward's logits, one pair at a time."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    prepare = CLIPImageProcessorPil.from_pretrained(folder)
    scores = []
    for image, prompt in zip(images, prompts, strict=True):
        text = tokenizer(prompt, return_tensors="pt")
        pixels = prepare(image, return_tensors="pt")["pixel_values"]
        logits = model(**text, pixel_values=pixels).logits_per_image
        scores.append(100 * logits[0, 0] / model.logit_scale.exp())
    return torch.stack(scores)


def test_mean_is_that_of_transformers_logits(clip_folder, images):
    metric = ClipScore(clip_folder)
    metric.update(images[:3], PROMPTS[:3])
    metric.update(images[3:], PROMPTS[3:])
    expected = reference_cosines(clip_folder, images, PROMPTS)
    assert expected.std() > 0.1
    assert metric.compute().item() == pytest.approx(max(expected.mean().item(), 0), abs=1e-3)


def test_a_call_with_one_picture_gives_its_own_score_and_adds_it_once(clip_folder, images):
    metric = ClipScore(clip_folder)
    each = [float(metric([i], [p])) for i, p in zip(images, PROMPTS, strict=True)]
    expected = reference_cosines(clip_folder, images, PROMPTS)
    np.testing.assert_allclose(each, expected.clamp(min=0).numpy(), atol=1e-3)
    assert metric.n_samples == 4
    assert metric.compute().item() == pytest.approx(max(expected.mean().item(), 0), abs=1e-3)


@pytest.mark.parametrize(("angle", "score"), [(0, 100.0), (60, 50.0), (90, 0.0), (180, 0.0)])
def test_known_angles(clip_folder, images, monkeypatch, angle, score):
    """100 * cos, and never below 0."""
    metric = ClipScore(clip_folder)
    radians = torch.tensor(float(angle)).deg2rad()
    picture, text = torch.tensor([[3.0, 0.0]]), 2 * torch.stack([radians.cos(), radians.sin()])
    monkeypatch.setattr(metric.model, "get_image_features", lambda pixels: picture)
    monkeypatch.setattr(metric.model, "get_text_features", lambda ids, mask: text[None])
    metric.update(images[:1], ["a"])
    assert metric.compute().item() == pytest.approx(score, abs=1e-4)


def test_long_prompt_is_cut_before_its_end_token_and_said(clip_folder, images):
    metric = ClipScore(clip_folder)
    long = "a b c d e f g h i j k l m n"  # 14 letters, 10 fit
    with pytest.warns(UserWarning, match="'k l m n'"):
        metric.update(images[:1], [long])
    short = ClipScore(clip_folder)
    short.update(images[:1], ["a b c d e f g h i j"])
    assert metric.compute().item() == pytest.approx(short.compute().item(), abs=1e-5)


def test_grey_and_transparent_pictures_are_scored(clip_folder):
    metric = ClipScore(clip_folder)
    metric.update([Image.new("L", (9, 50), 200), Image.new("RGBA", (64, 64))], ["a", "b"])
    assert metric.n_samples == 2


def test_numbers_of_pictures_and_prompts_must_agree(clip_folder, images):
    with pytest.raises(ValueError, match="4 pictures but 1 prompts"):
        ClipScore(clip_folder).update(images, ["a"])


def test_scoring_leaves_the_global_random_state(clip_folder, images):
    metric = ClipScore(clip_folder)
    before = torch.get_rng_state()
    metric.update(images, PROMPTS)
    assert torch.equal(before, torch.get_rng_state())


def test_a_folder_that_is_not_there_says_so(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be loaded.*give a local folder"):
        ClipScore(tmp_path / "nothing")


def test_another_kind_of_model_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(ValueError, match="siglip model, not clip"):
        load_clip(tmp_path)


def test_missing_weights_are_refused(clip_folder, tmp_path: Path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(clip_folder, tmp_path / "clip")
    path = tmp_path / "clip" / "model.safetensors"
    weights = load_file(path)
    del weights["text_projection.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="text_projection.weight"):
        load_clip(tmp_path / "clip")
