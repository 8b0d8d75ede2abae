"""Faces are found where they were put, whatever the picture's size."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from sdlora.data.pictures.faces import find_face, require_detector
from sdlora.world.portraits import portrait
from tests.places import PHOTOS


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))  # deepface makes folders there


def canvas(*faces: tuple[int, tuple[int, int], int], size: tuple[int, int] = (600, 400)):
    """Portrait 0, of some size at some place, on grey."""
    image = Image.new("RGB", size, "grey")
    for seed, corner, side in faces:
        image.paste(portrait(seed, size=256).image.resize((side, side)), corner)
    return image


def middle(box: tuple[int, int, int, int]) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def test_the_box_moves_with_the_face() -> None:
    first = middle(find_face(canvas((0, (20, 30), 200)), "opencv"))
    moved = middle(find_face(canvas((0, (320, 130), 200)), "opencv"))
    # the detector steps over the picture and merges what it finds: some pixels to and fro
    assert moved[0] - first[0] == pytest.approx(300, abs=10)
    assert moved[1] - first[1] == pytest.approx(100, abs=10)
    assert 20 < first[0] < 220
    assert 30 < first[1] < 230


def test_of_two_faces_the_largest() -> None:
    box = find_face(canvas((0, (10, 10), 120), (9, (250, 60), 300)), "opencv")
    assert 250 < middle(box)[0] < 550
    assert box[2] > 100


@pytest.mark.parametrize("side", [48, 64, 256, 1500])
def test_boxes_are_in_pixels_of_the_picture(side: int) -> None:
    """Small pictures are enlarged and large ones reduced for the detector."""
    image = portrait(0, size=256).image.resize((side, side))
    left, top, width, height = (edge / side for edge in find_face(image, "opencv"))
    assert left + width / 2 == pytest.approx(0.5, abs=0.1)
    assert 0.3 < width < 0.9
    assert 0.3 < height < 0.9
    assert left + width <= 1
    assert top + height <= 1


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (3000, 10), (700, 500)])
def test_a_picture_without_a_face(size: tuple[int, int]) -> None:
    assert find_face(Image.new("RGB", size, "white"), "opencv") is None


def test_any_mode() -> None:
    image = canvas((0, (20, 30), 200))
    assert find_face(image.convert("L"), "opencv") is not None
    assert find_face(image.convert("RGBA"), "opencv") == find_face(image, "opencv")


def test_the_same_in_any_thread() -> None:
    images = [portrait(seed).image for seed in range(6)] * 3
    alone = [find_face(image, "opencv") for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda image: find_face(image, "opencv"), images)) == alone
    assert any(alone)


def test_detectors_are_checked_before_use(tmp_path: Path) -> None:
    require_detector("opencv")
    with pytest.raises(ValueError, match=r"data\.face_detector=retina: unknown; .* opencv, ssd"):
        require_detector("retina")
    with pytest.raises(ValueError, match=r"=yunet: face_detection_yunet\S+ is missing"):
        find_face(Image.new("RGB", (64, 64)), "yunet")
    weights = tmp_path / ".deepface" / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    (weights / "deploy.prototxt").write_text("x")
    (weights / "res10_300x300_ssd_iter_140000.caffemodel").touch()
    with pytest.raises(ValueError, match=r"=ssd: res10_300x300\S+ is empty, a download that broke"):
        require_detector("ssd")
    (weights / "face_detection_yunet_2023mar.onnx").write_text("<html>Not Found</html>")
    with pytest.raises(ValueError, match=r"=yunet: \S+ is a web page, not weights in .* sdlora fe"):
        require_detector("yunet")


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the shared photos are not on this machine")
def test_real_photos() -> None:
    boxes = [find_face(Image.open(path), "opencv") for path in sorted(PHOTOS.glob("*.jpg"))[:12]]
    assert sum(box is not None for box in boxes) >= 11
