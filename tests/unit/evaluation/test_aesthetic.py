"""The aesthetic score is a line through CLIP's features, and its head is read or refused."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdlora.evaluation.aesthetic import Aesthetic, AestheticScorer, load_head
from sdlora.evaluation.image_features import ImageFeatures
from sdlora.evaluation.scoring import Pictures
from sdlora.runtime.progress import Progress
from sdlora.world.portraits import portrait

PICTURES = [portrait(seed).image for seed in range(3)] + [Image.new("L", (50, 40), 90)]


def test_the_mean_of_a_line_by_hand():
    metric = Aesthetic(torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([5.0]))
    metric.update(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    metric.update(torch.tensor([[0.6, 0.0, 0.8]]))
    assert metric.each().tolist() == pytest.approx([7.0, 4.0, 5 + 1.2 + 0.4], abs=1e-6)
    assert metric.compute().item() == pytest.approx((7 + 4 + 6.6) / 3, abs=1e-6)


def test_pictures_are_scored_by_their_unit_features(clip_folder, tmp_path):
    weight = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    head = tmp_path / "head.safetensors"
    save_file({"weight": weight, "bias": torch.tensor([3.0])}, head)
    scorer = AestheticScorer(head, clip_folder, batch_size=3)
    got = scorer.score(Pictures(PICTURES), Progress(enabled=False))
    features = ImageFeatures(clip_folder).embed(PICTURES).double()
    expected = (features @ weight[0].double() + 3).tolist()
    assert got.per_picture["aesthetic"] == pytest.approx(expected, abs=1e-5)
    assert got.values["aesthetic"] == pytest.approx(sum(expected) / 4, abs=1e-5)
    low, high = got.intervals["aesthetic"]
    assert low <= got.values["aesthetic"] <= high
    assert scorer.names == ("aesthetic",)


def test_laions_layout_is_that_of_a_linear_layer(tmp_path):
    linear = torch.nn.Linear(768, 1)
    save_file(linear.state_dict(), tmp_path / "head.safetensors")
    features = torch.nn.functional.normalize(torch.randn(2, 768), dim=1)
    metric = Aesthetic(*load_head(tmp_path / "head.safetensors"))
    metric.update(features)
    with torch.no_grad():
        expected = linear(features)[:, 0].double()
    torch.testing.assert_close(metric.each(), expected, atol=1e-6, rtol=0)


def test_a_head_of_another_clip_is_refused(clip_folder, tmp_path):
    head = tmp_path / "head.safetensors"
    save_file({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, head)
    with pytest.raises(ValueError, match=r"head\.safetensors: reads 768 .* gives 8; name the CLIP"):
        AestheticScorer(head, clip_folder)


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"weight": torch.zeros(1, 4)}, r"holds weight \[1, 4\];"),
        ({"bias": torch.zeros(1)}, r"holds bias \[1\];"),
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, r"holds .*weight \[2, 4\]"),
        ({"weight": torch.zeros(4), "bias": torch.zeros(1)}, r"holds .*weight \[4\]"),
        ({"weight": torch.full((1, 4), torch.nan), "bias": torch.zeros(1)}, "holds NaN"),
    ],
)
def test_other_tensors_are_named(tmp_path, tensors, found):
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match=rf"head\.safetensors: {found}.*give a safetensors file"):
        load_head(tmp_path / "head.safetensors")


def test_a_file_that_is_missing_or_of_another_format(tmp_path):
    with pytest.raises(ValueError, match=r"head\.safetensors: no such file; give"):
        AestheticScorer(tmp_path / "head.safetensors")
    torch.save({"weight": torch.zeros(1, 4), "bias": torch.zeros(1)}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"head\.pth: no safetensors file .* converted with"):
        load_head(tmp_path / "head.pth")
