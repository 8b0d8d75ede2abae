"""The formulas and pieces of the four small trainings."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sdlora.runtime.randomness import generator
from sdlora.world.attributes import AttributeClassifier
from sdlora.world.face import FaceEmbedder
from sdlora.world.portraits import ATTRIBUTE_VALUES, random_scene
from sdlora.world.training.clip_model import altered, contrastive_loss
from sdlora.world.training.degrade import degrade
from sdlora.world.training.face_embedder import equal_error_rate, same_person_loss
from sdlora.world.training.faceless import faceless
from sdlora.world.training.many_portraits import cached, to_tensor
from sdlora.world.training.vae import reconstruction_loss, reconstruction_psnr


def test_same_person_loss_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])

    # each row: partner at cosine 1, two others at cosine 0
    expected = -math.log(math.e / (math.e + 2))

    assert same_person_loss(vectors, temperature=1.0) == pytest.approx(expected, abs=1e-6)


def test_contrastive_loss_by_hand() -> None:
    image = torch.eye(2)
    wrong = -image

    loss = contrastive_loss(image, image, wrong, torch.tensor(1.0))

    by_image = -math.log(math.e / (math.e + 1 + 1 / math.e + 1))  # cosines 1, 0, -1, 0
    by_text = -math.log(math.e / (math.e + 1))  # 1, 0
    by_pair = -math.log(math.e / (math.e + 1 / math.e))  # 1, -1
    assert loss == pytest.approx((by_image + by_text) / 2 + by_pair, abs=1e-6)


def test_equal_error_rate_of_known_vectors() -> None:
    angles = torch.tensor([0.0, 0.1, 1.5, 1.6])
    vectors = torch.stack([angles.cos(), angles.sin()], 1)

    assert equal_error_rate(vectors, torch.tensor([0, 0, 1, 1])) == 0
    assert equal_error_rate(vectors, torch.tensor([0, 1, 0, 1])) >= 0.5


def test_equal_error_rate_by_hand() -> None:
    angles = torch.tensor([0.0, 40.0, 20.0, 100.0]).deg2rad()
    vectors = torch.stack([angles.cos(), angles.sin()], 1)

    # pairs by angle: 20 and 20 (strangers), 40 (one person), 60, 80 (one person), 100; from 40 on
    # half of the strangers pass and half of the persons' pairs fail
    assert equal_error_rate(vectors, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.5)


def test_reconstruction_loss_by_hand() -> None:
    pixels = torch.zeros(1, 1, 2, 2)
    predicted = pixels.clone()
    predicted[0, 0, 0, 0] = 0.4

    # absolute 0.4 / 4, squared 2 * 0.16 / 4, and of two differences along each axis one is 0.4
    expected = 0.1 + 0.08 + 0.2 + 0.2
    assert reconstruction_loss(predicted, pixels) == pytest.approx(expected, abs=1e-6)


def test_psnr_of_a_known_error() -> None:
    class Brighter:
        """A VAE that adds 0.2 to every pixel."""

        def encode(self, pixels: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(latent_dist=SimpleNamespace(mean=pixels))

        def decode(self, latents: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=latents + 0.2)

    # an error of 0.1 in pixels 0 to 1: 10 log10(1 / 0.01)
    pixels = torch.zeros(3, 3, 4, 4)
    assert reconstruction_psnr(Brighter(), pixels) == pytest.approx(20, abs=1e-5)


def test_altered_scene_differs_in_one_captioned_attribute() -> None:
    for seed in range(200):
        scene = random_scene(seed)
        before, after = scene.attributes(), altered(scene, seed).attributes()

        assert sum(before[name] != after[name] for name in before) == 1


def test_degrade_keeps_shape_range_and_content() -> None:
    pixels = to_tensor(np.stack([np.asarray(faceless(4))] * 12))

    spoiled = degrade(pixels, generator(0, "test"))

    assert spoiled.shape == pixels.shape
    assert spoiled.abs().max() <= 1
    assert not torch.equal(spoiled, pixels)
    assert (spoiled - pixels).abs().mean() < 0.2


def test_faceless_pictures_are_a_function_of_the_seed() -> None:
    for seed in range(12):
        assert np.array_equal(np.asarray(faceless(seed)), np.asarray(faceless(seed)))
        assert faceless(seed).size == (64, 64)


def test_cache_is_drawn_anew_for_other_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []

    def draw_many(seeds: list[int], people: list[int] | None) -> np.ndarray:
        drawn.append(seeds)
        return np.full((len(seeds), 2, 2, 3), len(seeds), np.uint8)

    monkeypatch.setattr("sdlora.world.training.many_portraits.draw_many", draw_many)
    first = cached(tmp_path, "some", [1, 2])
    again = cached(tmp_path, "some", [1, 2])
    other = cached(tmp_path, "some", [1, 2, 3])

    assert drawn == [[1, 2], [1, 2, 3]]
    assert np.array_equal(first, again)
    assert len(other) == 3


def test_face_embedder_comes_back_from_its_folder(tmp_path: Path) -> None:
    net = FaceEmbedder(width=4, num_features=8, num_dimensions=16).half().float().eval()
    pixels = torch.rand(3, 3, 64, 64) * 2 - 1

    net.save_pretrained(tmp_path)
    with torch.no_grad():
        before, after = net(pixels), FaceEmbedder.from_pretrained(tmp_path)(pixels)

    assert before.vectors.shape == (3, 16)
    assert torch.equal(before.vectors, after.vectors)
    assert torch.allclose(before.vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    assert ((before.face_probability >= 0) & (before.face_probability <= 1)).all()


def test_face_embedder_takes_any_size() -> None:
    net = FaceEmbedder(width=4, num_features=8).eval()
    pixels = F.interpolate(torch.rand(1, 3, 8, 8), size=(128, 128), mode="bilinear")

    with torch.no_grad():
        assert net(pixels).vectors.shape == (1, 128)


def test_classifier_names_a_value_of_every_attribute() -> None:
    answers = AttributeClassifier(width=4, num_features=8).eval().predict(torch.zeros(2, 3, 64, 64))

    assert len(answers) == 2
    for name, values in ATTRIBUTE_VALUES.items():
        assert answers[0][name] in values
