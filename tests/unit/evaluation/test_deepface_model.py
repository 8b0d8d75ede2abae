"""deepface's own code with random weights, against its answers one picture at a time."""

import importlib.util
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sdlora.evaluation.aligned_faces import AlignedFace, aligned_faces
from sdlora.evaluation.deepface_model import DETECTORS, MODELS, DeepFaceModel, _represent_chunk
from sdlora.evaluation.face_metric import face_distances
from sdlora.world.portraits import portrait
from tests.places import PHOTOS


def represent(image: Image.Image):
    """deepface's answer to one picture alone, with the options of the homework's tutorial."""
    from deepface import DeepFace

    return DeepFace.represent(
        np.array(image.convert("RGB"))[:, :, ::-1],
        detector_backend="opencv",
        model_name="GhostFaceNet",
        enforce_detection=False,
    )


def blank(size: int = 300) -> Image.Image:
    return Image.new("RGB", (size, size), "white")


def two_faces() -> Image.Image:
    canvas = Image.new("RGB", (600, 400), "grey")
    for seed, corner, side in ((0, (10, 10), 120), (9, (250, 60), 300)):
        canvas.paste(portrait(seed, size=256).image.resize((side, side)), corner)
    return canvas


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Of several sizes, each too large to be enlarged and too small to be reduced."""
    drawn = [
        portrait(seed, size=256).image.resize((s, s)) for seed, s in enumerate(range(260, 370, 10))
    ]
    return [two_faces(), blank(), *drawn[:8]]


def represent_without_border(image: Image.Image, monkeypatch: pytest.MonkeyPatch):
    """deepface's answer, had it not surrounded the picture with a black border."""
    from deepface.modules import detection

    with monkeypatch.context() as patched:
        patched.setattr(detection.cv2, "copyMakeBorder", lambda image, *border, **options: image)
        return represent(image)


def test_faces_of_many_pictures_are_those_of_each_alone(home, pictures, monkeypatch):
    answers = [represent_without_border(image, monkeypatch) for image in pictures]
    faces = [[face for face in answer if face["face_confidence"] != 0] for answer in answers]
    got = DeepFaceModel("GhostFaceNet", "opencv", batch_size=3).embed(pictures)  # 3, 3, 3 and 1
    assert got.counts.tolist() == [len(found) for found in faces]
    assert got.counts[0] == 2
    assert got.counts[1] == 0
    assert got.found.sum() >= 5
    for vector, found in zip(got.vectors, faces, strict=True):
        if not found:
            assert not vector.any()
            continue
        areas = [face["facial_area"]["w"] * face["facial_area"]["h"] for face in found]
        largest = torch.tensor(found[int(np.argmax(areas))]["embedding"])
        # float32 sums depend a little on the batch
        torch.testing.assert_close(vector, largest / largest.norm(), atol=1e-5, rtol=0)
    shown = got.vectors[got.found]
    assert torch.cdist(shown, shown).max() > 0.01  # the network tells pictures apart


def test_the_detector_sees_the_picture_without_a_border(home, monkeypatch):
    """With a border of half its size on each side, a face would be half as large to it."""
    from deepface.modules import modeling

    seen = []
    detector = modeling.build_model("face_detector", "opencv")

    def detect(image):
        seen.append(image.shape)
        return []

    monkeypatch.setattr(detector, "detect_faces", detect)
    model = DeepFaceModel("GhostFaceNet", "opencv")
    assert model.embed([blank(300), blank(64)]).counts.tolist() == [0, 0]
    assert seen == [(300, 300, 3), (256, 256, 3)]
    seen.clear()
    model.first_faces([blank(300)])  # the homework's protocol has it
    assert seen == [(600, 600, 3)]


def test_a_turned_face_is_set_upright(home):
    """Eyes on a slope of 45 degrees: the cut-out is turned, and black where nothing is."""
    from deepface.models.Detector import FacialAreaRegion
    from deepface.modules import modeling

    picture = np.zeros((200, 200, 3), np.uint8)
    picture[60:140, 60:140] = 200
    area = FacialAreaRegion(
        x=60, y=60, w=80, h=80, confidence=0.9, left_eye=(120, 120), right_eye=(80, 80)
    )
    detector = modeling.build_model("face_detector", "opencv")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(detector, "detect_faces", lambda image: [area])
        [face] = aligned_faces(picture, "opencv")
    assert (face.left, face.top, face.area_px) == (60, 60, 6400)
    assert 200 / 255 <= face.pixels.max() < 0.9  # a little above, where it was turned
    assert face.pixels[0, 0].max() == 0  # a corner of the turned square
    assert face.pixels[len(face.pixels) // 2, len(face.pixels) // 2].min() > 0.7


def test_one_picture_or_one_batch_make_no_difference(home, pictures):
    whole = DeepFaceModel("GhostFaceNet", "opencv").embed(pictures)
    alone = [DeepFaceModel("GhostFaceNet", "opencv").embed([image]) for image in pictures[:4]]
    assert [faces.counts.item() for faces in alone] == whole.counts[:4].tolist()
    width = whole.vectors.shape[1]
    for row, faces in zip(whole.vectors, alone, strict=False):
        expected = faces.vectors[0] if faces.found.item() else torch.zeros(width)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def test_first_faces_are_deepfaces_first_answers(home, pictures):
    small = portrait(0).image
    assert small.size == (64, 64)
    images = [*pictures[:4], small]
    answers = [represent(image)[0] for image in images]
    got = DeepFaceModel("GhostFaceNet", "opencv").first_faces(images)
    assert got.confidences.tolist() == [answer["face_confidence"] for answer in answers]
    assert got.confidences[1] == 0
    expected = torch.tensor([answer["embedding"] for answer in answers])
    torch.testing.assert_close(got.vectors, expected, atol=1e-4, rtol=1e-5)
    assert got.vectors[1].any()  # the whole picture
    assert DeepFaceModel().first_faces([]).vectors.shape == (0, 1)


def test_small_pictures_are_enlarged_and_blank_ones_are_faceless(home):
    drawn = [portrait(seed).image for seed in range(12)]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    got = DeepFaceModel("GhostFaceNet", "opencv").embed([*drawn, blank(64), Image.fromarray(noise)])
    assert got.vectors.shape == (14, 512)
    assert got.found[:12].sum() >= 4  # 60 % over many drawings; hats hide some
    assert not got.found[12:].any()
    lengths = got.vectors.norm(dim=1)
    torch.testing.assert_close(lengths, got.found.float(), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the shared photos are not on this machine")
def test_faces_of_real_photos(home):
    paths = sorted(PHOTOS.glob("*.jpg"))
    assert len(paths) == 100
    images = [Image.open(path) for path in paths[::2]]  # half of them: each takes 0.2 s
    assert DeepFaceModel("GhostFaceNet", "opencv").embed(images).found.sum() >= 47


class FakeDeepFace:
    """Answers as deepface 0.0.103 does; the colour of a picture says what is in it."""

    def __init__(self):
        self.lengths: list[int] = []

    def represent(self, pictures, *, model_name, detector_backend, enforce_detection, align=True):
        assert enforce_detection is False
        assert isinstance(pictures, list)
        self.lengths.append(len(pictures))
        if detector_backend == "skip":  # faces that are cut out: their pixels say which
            assert not align
            answers = [[{"embedding": picture[0, 0, :2].tolist()}] for picture in pictures]
            return answers[0] if len(answers) == 1 else answers
        answers = [self.answer(tuple(picture[0, 0].tolist())) for picture in pictures]
        if not any(answers):
            np.concatenate([], axis=0)  # what deepface does then
        return answers[0] if len(answers) == 1 else answers

    def answer(self, bgr):
        def face(x, y, side, embedding, confidence=0.9):
            area = {"x": x, "y": y, "w": side, "h": side}
            return {"facial_area": area, "face_confidence": confidence, "embedding": embedding}

        return {
            (0, 0, 255): [face(1, 1, 2, [0.0, 5.0]), face(30, 30, 9, [2.0, 0.0])],  # red
            (255, 0, 0): [face(0, 0, 64, [1.0, 1.0], 0)],  # blue
            (0, 255, 0): [face(40, 1, 9, [1.0, 0.0]), face(2, 1, 9, [0.0, 1.0])],  # lime
            (0, 0, 0): [],  # black: a face without pixels
        }[bgr]

    def faces(self, picture, detector):
        """The same faces, found without a border."""
        return [
            AlignedFace(area["x"], area["y"], area["w"] * area["h"], np.full((1, 1, 2), vector))
            for found in self.answer(tuple(picture[0, 0].tolist()))
            for area, vector in [(found["facial_area"], found["embedding"])]
            if found["face_confidence"]
        ]


@pytest.fixture
def fake(monkeypatch):
    library = FakeDeepFace()
    monkeypatch.setattr("sdlora.evaluation.deepface_model.aligned_faces", library.faces)
    monkeypatch.setattr("sdlora.evaluation.deepface_model.deepface", lambda: library)
    monkeypatch.setattr(DeepFaceModel, "require_weights", lambda self: None)
    return library


def plain(*colours: str) -> list[Image.Image]:
    return [Image.new("RGB", (64, 64), colour) for colour in colours]


def test_bgr_the_largest_face_the_upper_left_of_equals_and_no_whole_pictures(fake):
    got = DeepFaceModel(batch_size=3).embed(plain("red", "blue", "lime", "black"))
    assert fake.lengths == [2]  # faces: those of red and lime; black has none
    assert got.counts.tolist() == [2, 0, 2, 0]
    expected = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(got.vectors, expected)
    nobody = DeepFaceModel().embed(plain("blue"))
    distances = face_distances(nobody, torch.tensor([[1.0, 0.0]]))
    assert distances.tolist() == [pytest.approx(2**0.5)]
    assert DeepFaceModel().embed([]).counts.shape == (0,)


def test_first_faces_keep_whole_pictures_and_deepfaces_order(fake):
    got = DeepFaceModel().first_faces(plain("red", "blue", "lime", "black"))
    assert got.confidences.tolist() == [0.9, 0, 0.9, 0]
    assert got.vectors.tolist() == [[0.0, 5.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]


def test_what_deepface_silences_is_heard_again(fake, monkeypatch):
    def imported():
        warnings.filterwarnings("ignore")  # as deepface does when it is imported first
        return fake

    monkeypatch.setattr("sdlora.evaluation.deepface_model.deepface", imported)
    before = list(warnings.filters)
    DeepFaceModel().embed(plain("red"))
    assert warnings.filters == before


def test_other_errors_of_deepface_are_not_swallowed(fake, monkeypatch):
    def broken(*args, **options):
        raise ValueError("spoilt weights")

    monkeypatch.setattr(fake, "represent", broken)
    with pytest.raises(ValueError, match="spoilt weights"):
        DeepFaceModel().embed(plain("red"))


def test_missing_weights_are_found_without_deepface(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    model = DeepFaceModel()
    with pytest.raises(ValueError, match=r"ghostfacenet_v1\.pth is missing, face_detec") as error:
        model.require_weights()
    assert str(tmp_path) in str(error.value)
    assert "sdlora fetch evaluation.face=deepface evaluation.face.options.mo" in str(error.value)
    assert "DEEPFACE_HOME" in str(error.value)
    with pytest.raises(ValueError, match="missing"):
        model.embed([blank(8)])
    with pytest.raises(ValueError, match="missing"):
        model.first_faces([blank(8)])


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "is empty, a download that broke off"),
        (b"<html>Not Found</html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        (b"PK\x03\x04half", "is half a file, a download that broke off"),
        (b"x", "holds no weights of PyTorch"),
    ],
)
def test_damaged_weights_are_found_without_deepface(monkeypatch, tmp_path: Path, data, fault):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    folder = tmp_path / ".deepface" / "weights"
    folder.mkdir(parents=True)
    (folder / "ghostfacenet_v1.pth").write_bytes(data)
    with pytest.raises(ValueError, match=rf"ghostfacenet_v1\.pth {fault}.* in "):
        DeepFaceModel(detector="opencv").require_weights()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"detector": "yolov8n"}, "detector=yolov8n: needs .* pip install ultralytics, or choose"),
        ({"detector": "retinaface"}, "detector=retinaface: needs .* pip install retina-face,"),
        ({"model_name": "Dlib"}, "model_name=Dlib: needs the library dlib, which is not installed"),
    ],
)
def test_a_library_that_is_not_installed_is_named(monkeypatch, names, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        DeepFaceModel(**names).require_weights()


def test_another_backend_reads_other_files(monkeypatch):
    monkeypatch.setenv("DEEPFACE_BACKEND_ENGINE", "onnx")
    with pytest.raises(ValueError, match="DEEPFACE_BACKEND_ENGINE=onnx: .* unset"):
        DeepFaceModel(detector="opencv").require_weights()


@pytest.mark.parametrize(
    "arguments", [{"model_name": "GhostNet"}, {"detector": "sdd"}, {"batch_size": 0}]
)
def test_arguments_out_of_range_are_errors(arguments):
    with pytest.raises(ValueError, match="choose one of|at least 1"):
        DeepFaceModel(**arguments)


def test_all_of_deepfaces_names_and_their_files():
    """A new deepface that adds or renames something is seen here."""
    from deepface.modules.modeling import AVAILABLE_MODELS

    places = {"retinaface": "retinaface.model.retinaface_pth_model.x"}  # a library of its own
    for known, task in ((MODELS, "facial_recognition"), (DETECTORS, "face_detector")):
        assert known.keys() == AVAILABLE_MODELS[task].keys()
        for name, sources in AVAILABLE_MODELS[task].items():
            path = places.get(name) or sources.get("pytorch") or sources["any"]
            *folders, module = path.rpartition(".")[0].split(".")
            package = importlib.util.find_spec(folders[0]).submodule_search_locations[0]
            source = Path(package, *folders[1:], module + ".py").read_text(encoding="utf-8")
            for file in known[name].files:
                assert Path(file).name in source, f"{name}: {file}"
            if known[name].library and name not in ("retinaface", "SFace"):
                assert known[name].library.partition(".")[0] in source, name


def test_faces_without_pixels_are_none_and_another_error_stays_one() -> None:
    def library(message: str) -> SimpleNamespace:
        def represent(*told: object, **more: object) -> None:
            raise ValueError(message)

        return SimpleNamespace(represent=represent)

    chunk = [np.zeros((8, 8, 3), dtype=np.uint8)] * 2
    nothing = library("need at least one array to concatenate")
    assert _represent_chunk(nothing, chunk, "Dlib", "ssd") == [[], []]
    with pytest.raises(ValueError, match="no such network"):
        _represent_chunk(library("no such network"), chunk, "Dlib", "ssd")
