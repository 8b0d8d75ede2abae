"""The table of deepface's weight files against deepface's own code, and faults of its files."""

import inspect
from pathlib import Path

import deepface
import pytest
import retinaface

from sdlora.assembly.needed_weights import FEATURES_OF
from sdlora.assembly.scorers import _deepface
from sdlora.evaluation.aesthetic import AestheticScorer
from sdlora.evaluation.clip_metric import ClipScore
from sdlora.evaluation.image_features import ImageFeatures
from sdlora.weights import face_files
from sdlora.weights.face_files import (
    BY_HAND,
    DEFAULT_DETECTOR,
    DEFAULT_MODEL,
    DETECTORS,
    MODELS,
    SOURCES,
    Needs,
    described_faults,
    file_faults,
    library_fault,
)


def test_every_file_has_a_source_and_it_is_that_of_deepface() -> None:
    text = "".join(
        path.read_text("utf-8")
        for package in (deepface, retinaface)
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py"))
    )
    needed = {file for needs in [*MODELS.values(), *DETECTORS.values()] for file in needs.files}
    assert needed == SOURCES.keys() | BY_HAND.keys()
    for name, source in SOURCES.items():
        assert source.urls
        for url in source.urls:
            assert f'"{url}"' in text, name
    assert all(f'"{url}"' in text for url in BY_HAND.values())


def test_what_is_checked_early_is_what_is_loaded() -> None:
    options = inspect.signature(_deepface).parameters
    assert options["model_name"].default == DEFAULT_MODEL
    assert options["detector"].default == DEFAULT_DETECTOR
    kinds = {"clip": ClipScore, "image": ImageFeatures, "aesthetic": AestheticScorer}
    for key, kind in kinds.items():
        assert inspect.signature(kind).parameters["model"].default == FEATURES_OF[key]


def test_faults_name_file_fault_and_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    folder = tmp_path / ".deepface" / "weights"
    folder.mkdir(parents=True)
    (folder / "face_detection_yunet_2023mar.onnx").write_bytes(b"<html>")
    (folder / "deploy.prototxt").write_text('input: "data"')
    faults = file_faults(["face_detection_yunet_2023mar.onnx", "deploy.prototxt", "a.dat"])
    assert described_faults(faults) == (
        "face_detection_yunet_2023mar.onnx is a web page, not weights, a.dat is missing in "
        f"{folder}"
    )
    (folder / "face_detection_yunet_2023mar.onnx").write_bytes(b"x" * 1000)
    assert file_faults(["face_detection_yunet_2023mar.onnx"]) == {
        "face_detection_yunet_2023mar.onnx": "has 1000 of 232589 bytes, a download that broke off"
    }


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (MODELS["Dlib"], "k=v: needs the library dlib, which is not installed; pip install dlib-"),
        (DETECTORS["fastmtcnn"], "k=v: cannot be used: facenet-pytorch needs PyTorch < 2.3, this"),
        (DETECTORS["mediapipe"], "k=v: cannot be used: its present versions lack what deepface"),
    ],
)
def test_advice_can_be_followed(needs: Needs, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_files.importlib.util, "find_spec", lambda name: None)
    assert str(library_fault("k", "v", needs)).startswith(said)


def test_a_library_that_is_there_or_not_needed_is_no_fault() -> None:
    assert library_fault("k", "v", Needs(library="json")) is None
    assert library_fault("k", "v", Needs(library="no_such.module", package="x")) is not None
    assert library_fault("k", "v", Needs()) is None
