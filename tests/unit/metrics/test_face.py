"""Face distance against vectors whose distances are known by hand."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sdlora.metrics.face import (
    FACELESS_DISTANCE,
    DeepFaceModel,
    FaceDistance,
    Faces,
    TinyFace,
    as_faces,
    face_distances,
)

X, Y = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]


def faces(*rows) -> Faces:
    """Rows as they are; None is a picture without a face."""
    vectors = torch.tensor([[0.0] * 3 if row is None else row for row in rows])
    return Faces(vectors, torch.tensor([row is not None for row in rows]))


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
        got = face_distances(as_faces(row[None], torch.tensor([True])), row.repeat(64, 1))
        assert got.item() < 1e-6


def test_agrees_with_numpy_in_float64():
    generator = torch.Generator().manual_seed(0)
    drawn = as_faces(torch.randn(40, 16, generator=generator), torch.ones(40, dtype=torch.bool))
    references = as_faces(
        torch.randn(30, 16, generator=generator), torch.ones(30, dtype=torch.bool)
    ).vectors
    a, b = drawn.vectors.double().numpy(), references.double().numpy()
    expected = np.linalg.norm(a[:, None] - b[None], axis=-1).mean(axis=1)
    np.testing.assert_allclose(face_distances(drawn, references).numpy(), expected, atol=1e-6)


def test_a_picture_without_a_face_counts_as_an_unrelated_face_never_as_zero():
    metric = FaceDistance(torch.tensor([X]))
    metric.update(faces(X, None))
    metric.update(faces(None, None))
    assert math.sqrt(2) == FACELESS_DISTANCE
    assert metric.compute().item() == pytest.approx((0 + 3 * math.sqrt(2)) / 4, abs=1e-7)
    assert metric.num_faceless == 3
    assert metric.num_pictures == 4
    metric.reset()
    metric.update(faces(None))
    assert metric.compute().item() == pytest.approx(math.sqrt(2))


def test_mean_does_not_depend_on_how_pictures_are_split():
    references = torch.tensor([X, Y])
    whole, parts = FaceDistance(references), FaceDistance(references)
    whole.update(faces(X, Y, None, [0.0, 0.0, 1.0]))
    for part in (faces(X), faces(Y, None), faces([0.0, 0.0, 1.0])):
        parts.update(part)
    assert whole.compute().item() == pytest.approx(parts.compute().item(), abs=1e-12)


@pytest.mark.parametrize("references", [torch.zeros(0, 3), torch.tensor([[2.0, 0, 0]])])
def test_references_must_be_faces(references):
    with pytest.raises(ValueError, match="references"):
        FaceDistance(references)


def test_as_faces_scales_and_blanks():
    got = as_faces(torch.tensor([[3.0, 4.0], [9.0, 9.0]]), torch.tensor([True, False]))
    torch.testing.assert_close(got.vectors, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
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


def test_missing_deepface_weights_are_found_without_deepface(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    model = DeepFaceModel()
    with pytest.raises(ValueError, match="ghostfacenet_v1.pth and deploy.prototxt and") as error:
        model.require_weights()
    assert str(tmp_path) in str(error.value)
    assert "DEEPFACE_HOME" in str(error.value)
    with pytest.raises(ValueError, match="missing"):
        model.embed([Image.new("RGB", (8, 8))])
    folder = tmp_path / ".deepface" / "weights"
    folder.mkdir(parents=True)
    (folder / "ghostfacenet_v1.pth").touch()  # an empty file is a download that broke off
    with pytest.raises(ValueError, match="missing ghostfacenet_v1.pth in"):
        DeepFaceModel(detector="opencv").require_weights()


@pytest.mark.parametrize("names", [{"model_name": "GhostNet"}, {"detector": "sdd"}])
def test_unknown_deepface_names_are_errors(names):
    with pytest.raises(ValueError, match="choose one of"):
        DeepFaceModel(**names)


@pytest.fixture(scope="module")
def deepface_home(tmp_path_factory):
    """Random GhostFaceNet weights where deepface looks for them: the path, not the identity."""
    home = tmp_path_factory.mktemp("home")
    folder = home / ".deepface" / "weights"
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setenv("DEEPFACE_HOME", str(home))
        patch.setenv("DEEPFACE_BACKEND_ENGINE", "pytorch")
        from deepface.models.facial_recognition.pytorch import GhostFaceNet

        torch.manual_seed(0)
        torch.save(GhostFaceNet.base_model().state_dict(), folder / "ghostfacenet_v1.pth")
        yield home


def test_real_deepface_finds_drawn_faces_offline(deepface_home):
    from sdlora.world.portraits import portrait

    drawn = [portrait(seed).image for seed in range(12)]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blanks = [Image.new("RGB", (64, 64), "white"), Image.fromarray(noise)]
    model = DeepFaceModel("GhostFaceNet", "opencv")
    model.require_weights()
    got = model.embed([*drawn, *blanks])
    assert got.vectors.shape == (14, 512)
    assert got.found[:12].sum() >= 4  # 60 % over many drawings; hats hide some
    assert not got.found[12:].any()
    lengths = got.vectors.norm(dim=1)
    torch.testing.assert_close(lengths, got.found.float(), atol=1e-5, rtol=0)


class FakeDeepFace:
    """Answers as deepface 0.0.103 does: a list of faces, confidence 0 where there is none."""

    @staticmethod
    def represent(picture, **options):
        assert options["enforce_detection"] is False
        blue, green, red = picture[0, 0].tolist()
        small = {"facial_area": {"w": 2, "h": 2}, "face_confidence": 0.9, "embedding": [0.0, 5.0]}
        large = {"facial_area": {"w": 9, "h": 9}, "face_confidence": 0.9, "embedding": [2.0, 0.0]}
        none = {"facial_area": {"w": 64, "h": 64}, "face_confidence": 0, "embedding": [1.0, 1.0]}
        assert green == 0
        return [small, large] if red > blue else [none]


def test_deepface_sees_bgr_takes_the_largest_face_and_leaves_out_whole_pictures(monkeypatch):
    monkeypatch.setattr("sdlora.metrics.face.deepface", lambda: FakeDeepFace)
    monkeypatch.setattr(DeepFaceModel, "require_weights", lambda self: None)
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    got = DeepFaceModel().embed(images)
    assert got.found.tolist() == [True, False]
    torch.testing.assert_close(got.vectors, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    nobody = DeepFaceModel().embed(images[1:])
    assert face_distances(nobody, torch.tensor([[1.0, 0.0]])).tolist() == [
        pytest.approx(FACELESS_DISTANCE)
    ]
