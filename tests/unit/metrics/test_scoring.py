"""All scores of a list of pictures: by hand, and with every part of it missing."""

import math

import pytest
import torch
from PIL import Image

from sdlora.metrics.clip import ClipScore
from sdlora.metrics.face import Faces
from sdlora.metrics.scoring import Scorer, load_or_reason
from sdlora.progress import Progress

ANGLES = {"white": 0, "red": 90, "lime": 180}


class ColourFaces:
    """A colour is a face at a known angle; black shows none."""

    def __init__(self) -> None:
        self.num_embedded = 0

    def embed(self, images):
        self.num_embedded += len(images)
        angles = [self.angle(image) for image in images]
        rows = [
            [0.0, 0.0]
            if a is None
            else [round(math.cos(math.radians(a))), round(math.sin(math.radians(a)))]
            for a in angles
        ]
        return Faces(torch.tensor(rows).float(), torch.tensor([a is not None for a in angles]))

    @staticmethod
    def angle(image):
        named = {Image.new("RGB", (1, 1), n).getpixel((0, 0)): a for n, a in ANGLES.items()}
        return named.get(image.getpixel((0, 0)))


class BrokenFaces:
    def embed(self, images):
        raise RuntimeError("no cascade")


def pictures(*colours):
    return [Image.new("RGB", (8, 8), colour) for colour in colours]


def test_face_scores_by_hand():
    scores = Scorer(ColourFaces(), None, pictures("white")).score(
        pictures("white", "red", "lime", "black"), ["a", "b", "c", "d"]
    )
    root = math.sqrt(2)
    assert scores.face_distance == pytest.approx((0 + root + 2 + root) / 4, abs=1e-6)
    assert scores.faceless == 1
    assert [p.has_face for p in scores.per_picture] == [True, True, True, False]
    assert [p.face_distance for p in scores.per_picture] == pytest.approx([0, root, 2, root])
    assert [p.prompt for p in scores.per_picture] == ["a", "b", "c", "d"]
    assert scores.num_pictures == 4


def test_references_are_embedded_once_and_faceless_ones_named():
    face = ColourFaces()
    scorer = Scorer(
        face, None, pictures("white", "black", "white"), reference_names=["a.png", "b.png", "c.png"]
    )
    assert face.num_embedded == 0
    first = scorer.score(pictures("red"), None)
    assert face.num_embedded == 3 + 1
    assert scorer.score(pictures("red"), None).face_distance == first.face_distance
    assert face.num_embedded == 3 + 1 + 1
    assert scorer.faceless_references == ("b.png",)
    assert first.face_distance == pytest.approx(math.sqrt(2))


def test_clip_score_and_per_picture_scores(clip_folder):
    seen = []

    class Recorder(Progress):
        def update(self, bar, completed, note=""):
            seen.append(completed)

    scorer = Scorer(None, ClipScore(clip_folder), [])
    images = pictures("white", "red")
    scores = scorer.score(images, ["a cat", "hat"], Recorder(enabled=False))
    alone = ClipScore(clip_folder)
    alone.update(images, ["a cat", "hat"])
    assert scores.clip_score == pytest.approx(alone.compute().item(), abs=1e-4)
    assert len(scores.per_picture) == 2
    assert seen == [1, 2]
    again = scorer.score(images[:1], ["a cat"])  # nothing is left of the first scoring
    assert again.clip_score == pytest.approx(scores.per_picture[0].clip_score, abs=1e-5)
    assert scores.reasons["face_distance"] == "no face model was asked for"


def test_what_cannot_be_scored_is_none_with_a_reason_and_the_rest_is_scored(clip_folder):
    clip = ClipScore(clip_folder)
    scores = Scorer(BrokenFaces(), clip, pictures("white")).score(pictures("red"), ["a"])
    assert scores.face_distance is None
    assert scores.faceless is None
    assert scores.clip_score is not None
    assert scores.reasons == {
        "face_distance": "RuntimeError: no cascade",
        "faceless": "RuntimeError: no cascade",
    }
    assert scores.per_picture[0].face_distance is None
    assert scores.values() == {
        "face_distance": None,
        "faceless": None,
        "clip_score": scores.clip_score,
    }


@pytest.mark.parametrize(
    ("references", "images", "reason"),
    [
        ([], ["red"], "no reference pictures"),
        (["black", "black"], ["red"], "none of the 2 references shows a face"),
        (["white"], [], "no picture to score"),
    ],
)
def test_face_reasons(references, images, reason):
    scores = Scorer(ColourFaces(), None, pictures(*references)).score(pictures(*images), None)
    assert scores.face_distance is None
    assert reason in scores.reasons["face_distance"]


def test_real_pictures_need_no_prompts(clip_folder):
    scores = Scorer(ColourFaces(), ClipScore(clip_folder), pictures("white")).score(
        pictures("white"), None
    )
    assert scores.face_distance == 0
    assert scores.clip_score is None
    assert "no prompts" in scores.reasons["clip_score"]


def test_a_model_that_is_not_there_gives_its_reason(tmp_path):
    missing: dict[str, str] = {}
    clip = load_or_reason(lambda: ClipScore(tmp_path / "nothing"), "clip", missing)
    assert clip is None
    scores = Scorer(None, clip, [], missing=missing).score(pictures("red"), ["a"])
    assert "cannot be loaded" in scores.reasons["clip_score"]
    assert scores.clip_score is None


def test_numbers_must_agree():
    with pytest.raises(ValueError, match="1 pictures but 2 prompts"):
        Scorer(None, None, []).score(pictures("red"), ["a", "b"])
    with pytest.raises(ValueError, match="reference_names"):
        Scorer(None, None, pictures("red"), reference_names=[])


class Shades:
    """Stands for picture features: a colour's angle is its vector."""

    def __init__(self) -> None:
        self.num_embedded = 0

    def embed(self, images):
        self.num_embedded += len(images)
        radians = [math.radians(ColourFaces.angle(image)) for image in images]
        return torch.tensor([[math.cos(a), math.sin(a)] for a in radians])


def test_picture_features_by_hand_and_known_pictures_embedded_once():
    features = Shades()
    scorer = Scorer(
        None, None, pictures("white"), features=features, training=pictures("white", "red")
    )
    scores = scorer.score(pictures("white", "red", "lime"), ["a", "a", "b"])
    assert scores.image_similarity == pytest.approx(0, abs=1e-6)
    assert scores.diversity == pytest.approx(1)
    assert scores.copying == pytest.approx(2 / 3)
    assert scores.copying_yardstick == pytest.approx(0, abs=1e-6)
    assert [p.image_similarity for p in scores.per_picture] == pytest.approx([1, 0, -1], abs=1e-6)
    assert [p.nearest_training for p in scores.per_picture] == [0, 1, 1]
    low, high = scores.intervals["image_similarity"]
    assert -1 <= low < 0 < high <= 1
    assert set(scores.intervals) == {"image_similarity"}
    assert features.num_embedded == 3 + 3
    scorer.score(pictures("white"), None)
    assert features.num_embedded == 3 + 3 + 1


def test_what_features_cannot_say_has_a_reason():
    bare = Scorer(None, None, [], features=Shades()).score(pictures("red"), ["a"])
    assert {n: bare.values()[n] for n in ("image_similarity", "diversity", "copying")} == {
        "image_similarity": None,
        "diversity": None,
        "copying": None,
    }
    assert "no reference" in bare.reasons["image_similarity"]
    assert "two seeds" in bare.reasons["diversity"]
    assert "no training" in bare.reasons["copying"]
    gone = Scorer(None, None, [], missing={"image": "no weights"}).score(pictures("red"), None)
    assert gone.reasons["copying"] == "no weights"
