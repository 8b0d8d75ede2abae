"""Face distance and cosine against vectors whose angles are known by hand."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sdlora.evaluation.face_metric import (
    FaceCosine,
    FaceDistance,
    Faces,
    TinyFace,
    as_faces,
    face_distances,
)
from sdlora.evaluation.strangers import RIGHT_ANGLE, STRANGERS

X, Y = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]


def faces(*rows) -> Faces:
    """Rows as they are; None is a picture without a face."""
    vectors = torch.tensor([[0.0] * 3 if row is None else row for row in rows])
    return Faces(vectors, torch.tensor([int(row is not None) for row in rows]))


def test_distances_of_known_unit_vectors():
    references = torch.tensor([X, Y])
    sixty = [0.5, math.sqrt(3) / 2, 0.0]
    got = face_distances(faces(X, [-1.0, 0.0, 0.0], sixty), references)
    by_hand = [
        (0 + math.sqrt(2)) / 2,  # the same, and at a right angle
        (2 + math.sqrt(2)) / 2,  # opposite, and at a right angle
        (1 + 2 * math.sin(math.radians(15))) / 2,  # chords of 60 and 30 degrees
    ]
    # float32
    torch.testing.assert_close(got, torch.tensor(by_hand), atol=1e-6, rtol=0)


def test_same_face_among_many_is_at_distance_zero():
    """cdist's default way for > 25 rows gives about 5e-4 here."""
    vectors = torch.nn.functional.normalize(
        torch.randn(64, 512, generator=torch.Generator().manual_seed(0)), dim=1
    )
    for row in vectors[:4]:
        got = face_distances(as_faces(row[None], torch.tensor([1])), row.repeat(64, 1))
        assert got.item() < 1e-6


def test_agrees_with_numpy_in_float64():
    generator = torch.Generator().manual_seed(0)
    drawn = as_faces(torch.randn(40, 16, generator=generator), torch.ones(40, dtype=torch.int64))
    references = torch.nn.functional.normalize(torch.randn(30, 16, generator=generator), dim=1)
    a, b = drawn.vectors.double().numpy(), references.double().numpy()
    expected = np.linalg.norm(a[:, None] - b[None], axis=-1).mean(axis=1)
    np.testing.assert_allclose(face_distances(drawn, references).numpy(), expected, atol=1e-6)


def test_a_picture_without_a_face_counts_as_an_unrelated_face_never_as_zero():
    metric = FaceDistance(torch.tensor([X]))
    metric.update(faces(X, None))
    metric.update(faces(None, None))
    assert RIGHT_ANGLE.distance == math.sqrt(2)
    assert metric.compute().item() == pytest.approx((0 + 3 * math.sqrt(2)) / 4, abs=1e-7)
    assert metric.each().tolist() == pytest.approx([0, *[math.sqrt(2)] * 3], abs=1e-7)
    metric.reset()
    metric.update(faces(None))
    assert metric.compute().item() == pytest.approx(math.sqrt(2))


def test_cosines_of_known_unit_vectors_and_of_no_face():
    metric = FaceCosine(torch.tensor([X, Y]))
    metric.update(faces([0.6, 0.8, 0.0], None, [0.0, 0.0, 1.0]))
    metric.update(faces([-1.0, 0.0, 0.0]))
    metric.update(faces(None))
    assert metric.each().tolist() == pytest.approx([0.7, 0, 0, -0.5, 0], abs=1e-7)
    assert metric.compute().item() == pytest.approx(0.04, abs=1e-7)
    metric.reset()
    metric.update(Faces(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)))  # of no known width
    assert metric.each().tolist() == [0, 0]


def test_a_picture_without_a_face_counts_as_a_stranger_of_the_network():
    dlib = STRANGERS["Dlib"]
    distance = FaceDistance(torch.tensor([X]), dlib.distance)
    cosine = FaceCosine(torch.tensor([X]), dlib.cosine)
    for metric in (distance, cosine):
        metric.update(faces(X, None))
        metric.update(faces(None))
    assert distance.each().tolist() == pytest.approx([0, 0.458, 0.458], abs=1e-7)
    assert cosine.each().tolist() == pytest.approx([1, 0.895, 0.895], abs=1e-7)


def test_strangers_lie_where_deepface_takes_two_faces_for_those_of_strangers():
    """Its thresholds are where the two kinds of pairs part, so strangers lie beyond them."""
    from deepface.config.threshold import thresholds

    from sdlora.evaluation.deepface_model import MODELS

    beyond = {name: each["euclidean_l2"] for name, each in thresholds.items()}
    assert beyond.keys() == MODELS.keys()
    for name, stranger in STRANGERS.items():
        assert beyond[name] < stranger.distance <= math.sqrt(2)
        assert stranger.cosine == pytest.approx(1 - stranger.distance**2 / 2, abs=5e-4)
    at_right_angles = {name for name, each in STRANGERS.items() if each == RIGHT_ANGLE}
    assert at_right_angles == {name for name, least in beyond.items() if least > 1}


def test_mean_does_not_depend_on_how_pictures_are_split():
    references = torch.tensor([X, Y])
    whole, parts = FaceDistance(references), FaceDistance(references)
    whole.update(faces(X, Y, None, [0.0, 0.0, 1.0]))
    for part in (faces(X), faces(Y, None), faces([0.0, 0.0, 1.0])):
        parts.update(part)
    assert whole.compute().item() == pytest.approx(parts.compute().item(), abs=1e-12)


@pytest.mark.parametrize("metric", [FaceDistance, FaceCosine])
@pytest.mark.parametrize("references", [torch.zeros(0, 3), torch.tensor([[2.0, 0, 0]])])
def test_references_must_be_faces(references, metric):
    with pytest.raises(ValueError, match="references"):
        metric(references)


def test_as_faces_scales_and_blanks():
    got = as_faces(torch.tensor([[3.0, 4.0], [9.0, 9.0]]), torch.tensor([2, 0]))
    torch.testing.assert_close(got.vectors, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert got.counts.tolist() == [2, 0]
    assert got.found.tolist() == [True, False]
    # what stands where no face was found does not matter, not even NaN
    as_faces(torch.tensor([[1.0], [float("nan")]]), torch.tensor([True, False]))


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_broken_embedding_of_a_face_is_an_error(bad):
    with pytest.raises(ValueError, match=r"pictures \[1\]"):
        as_faces(torch.tensor([[1.0], [bad]]), torch.tensor([True, True]))


class MeanColour(nn.Module):
    """Stands for the trained embedder: a face is what is not black."""

    def forward(self, pixels):
        assert pixels.shape[1:] == (3, 64, 64)
        colour = (pixels.mean(dim=(2, 3)) + 1) / 2
        length = colour.norm(dim=1, keepdim=True)
        return SimpleNamespace(vectors=colour / length, face_probability=(length[:, 0] > 0).float())


def test_tiny_face_gives_rgb_in_minus_one_to_one_and_keeps_the_order(monkeypatch, tmp_path: Path):
    module = SimpleNamespace(
        FaceEmbedder=SimpleNamespace(from_pretrained=lambda folder: MeanColour())
    )
    monkeypatch.setitem(__import__("sys").modules, "sdlora.world.face", module)
    model = TinyFace(tmp_path, batch_size=2)
    images = [Image.new("RGB", (100, 80), c) for c in ("red", "black", "lime", "blue", "white")]
    got = model.embed([*images, Image.new("L", (64, 64), 128)])
    assert got.found.tolist() == [True, False, True, True, True, True]
    third = 3**-0.5
    expected = [X, [0.0] * 3, Y, [0.0, 0.0, 1.0], [third] * 3, [third] * 3]
    torch.testing.assert_close(got.vectors, torch.tensor(expected), atol=1e-6, rtol=0)
    assert len(model.embed([]).found) == 0


def test_tiny_face_is_the_worlds_embedder(tmp_path: Path):
    from sdlora.world.face import FaceEmbedder
    from sdlora.world.portraits import portrait

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        FaceEmbedder(width=4, num_features=16, num_dimensions=8).save_pretrained(tmp_path)
    images = [portrait(seed).image for seed in range(3)]
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1 for image in images]
    with torch.no_grad():
        expected = FaceEmbedder.from_pretrained(tmp_path)(torch.stack(pixels))
    probabilities = expected.face_probability
    got = TinyFace(tmp_path, threshold=probabilities.median().item()).embed(images)
    assert got.found.sum() == 2
    assert torch.equal(got.found, probabilities >= probabilities.median())
    shown = got.found
    torch.testing.assert_close(got.vectors[shown], expected.vectors[shown], atol=1e-6, rtol=0)
