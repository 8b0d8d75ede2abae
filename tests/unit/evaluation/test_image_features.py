"""Features of pictures: the model's own numbers, in any batches."""

import pytest
import torch
from PIL import Image

from sdlora.evaluation.image_features import ImageFeatures
from sdlora.world.portraits import portrait


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    folder = tmp_path_factory.mktemp("dino")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)
    side = {"height": 28, "width": 28}
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=side).save_pretrained(folder)
    return folder


PICTURES = [portrait(seed).image for seed in range(3)] + [Image.new("L", (50, 40), 90)]


def test_clip_features_are_unit_and_do_not_depend_on_the_batch(clip_folder):
    one, all_at_once = (ImageFeatures(clip_folder, batch_size=n).embed(PICTURES) for n in (1, 8))
    assert one.shape == (4, 8)
    assert torch.allclose(one, all_at_once, atol=1e-6)
    assert torch.allclose(one.norm(dim=1), torch.ones(4))
    assert ImageFeatures(clip_folder).embed([]).shape == (0, 1)


def test_dino_features_are_the_first_token(dino_folder):
    from transformers import AutoImageProcessor, Dinov2Model

    pixels = AutoImageProcessor.from_pretrained(dino_folder)(PICTURES[:2], return_tensors="pt")
    with torch.no_grad():
        tokens = Dinov2Model.from_pretrained(dino_folder).eval()(**pixels).last_hidden_state
    expected = torch.nn.functional.normalize(tokens[:, 0], dim=1)
    found = ImageFeatures(dino_folder).embed(PICTURES[:2])
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded"):
        ImageFeatures(tmp_path / "nothing")
    with pytest.raises(ValueError, match="batch_size=0"):
        ImageFeatures("tiny", batch_size=0)
