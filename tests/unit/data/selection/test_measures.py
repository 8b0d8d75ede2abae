"""Pictures are measured right, decoded once, and those that cannot be decoded are named."""

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import fft, ndimage

from sdlora.data.pictures.faces import find_face
from sdlora.data.pictures.picture import ERROR, Finding, Picture
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.selection import measures
from sdlora.data.selection.measures import SOUND, Measures, box, phash, sharpness, unreadable
from sdlora.data.sources.picture_source import DataError
from sdlora.runtime.progress import Progress
from sdlora.world.portraits import portrait

QUIET = Progress(enabled=False)


class Known:
    """An index of values, in memory."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, str]] = defaultdict(dict)

    def facts(self, kind: str, contents: Sequence[str]) -> Mapping[str, str]:
        return {c: self.values[kind][c] for c in contents if c in self.values[kind]}

    def store_facts(self, kind: str, mapping: Mapping[str, str]) -> None:
        self.values[kind].update(mapping)


class Pictures:
    """Grey pictures, one for each content; an exception stands for a picture that has it."""

    def __init__(self, *images: Image.Image | Exception, contents: Sequence[str] = ()) -> None:
        self.images = images
        contents = contents or [f"{i:064x}" for i in range(len(images))]
        self.pictures = [
            Picture(f"{i}.png", (8, 8), "", content) for i, content in enumerate(contents)
        ]
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.decoded: Counter[int] = Counter()
        self._lock = threading.Lock()

    def image(self, index: int) -> Image.Image:
        with self._lock:
            self.decoded[index] += 1
        image = self.images[index]
        if isinstance(image, Exception):
            raise image
        return image

    def mask(self, index: int) -> None:
        return None


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (level, level, level))


def checkerboard(side: int, field: int = 1) -> Image.Image:
    rows, columns = np.indices((side, side)) // field
    return Image.fromarray(((rows + columns) % 2 * 255).astype(np.uint8)).convert("RGB")


def test_sharpness_of_known_pictures() -> None:
    assert sharpness(grey(100)) == 0
    # every pixel differs by 255 from its four neighbours: the Laplacian is 1020 or -1020
    assert sharpness(checkerboard(64)) == pytest.approx(1020**2)
    # reduced to 512 pixels, fields of 2 become fields of 1
    assert sharpness(checkerboard(1024, field=2)) == pytest.approx(1020**2)
    assert sharpness(checkerboard(1024, field=1)) == pytest.approx(0, abs=1)


def test_sharpness_agrees_with_scipy() -> None:
    image = portrait(3, size=200).image.convert("RGB")
    pixels = np.asarray(image.convert("L"), dtype=np.float64)
    assert sharpness(image) == pytest.approx(ndimage.laplace(pixels, mode="mirror").var())


def test_a_blurred_picture_is_less_sharp() -> None:
    image = portrait(3, size=512).image.convert("RGB")
    small = image.resize((64, 64)).resize((512, 512), Image.Resampling.BICUBIC)
    assert sharpness(small) < sharpness(image) / 4


def test_phash_is_the_signs_of_low_frequencies() -> None:
    image = portrait(3, size=200).image.convert("RGB")
    small = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    low = fft.dctn(np.asarray(small, dtype=np.float64))[:8, :8]
    bits = (low > np.median(low)).astype(int).ravel()
    assert phash(image) == f"{int(''.join(map(str, bits)), 2):016x}"


def test_like_pictures_have_like_hashes() -> None:
    image = portrait(3, size=300).image.convert("RGB")
    hashes = [int(phash(image.resize((side, side))), 16) for side in (300, 211, 97)]
    assert max((hashes[0] ^ other).bit_count() for other in hashes) <= 4
    others = [int(phash(portrait(seed, size=300).image), 16) for seed in range(4, 12)]
    assert min((hashes[0] ^ other).bit_count() for other in others) > 4


def test_each_picture_is_decoded_once_for_all_kinds() -> None:
    source = Pictures(*(portrait(seed, size=64).image.convert("RGB") for seed in range(5)))
    facts = Measures(source, Known(), QUIET).of(["sharpness", "phash", "face:opencv"], range(5))
    assert source.decoded == Counter(range(5))
    assert set(facts) == {"decode", "sharpness", "phash", "face:opencv"}
    for picture, image in zip(source.pictures, source.images, strict=True):
        assert facts["decode"][picture.content] == SOUND
        assert facts["phash"][picture.content] == phash(image)
        assert float(facts["sharpness"][picture.content]) == pytest.approx(sharpness(image), 1e-5)
        assert box(facts["face:opencv"][picture.content]) == find_face(image, "opencv")
    assert QUIET.tasks() == []


def test_equal_files_are_decoded_once() -> None:
    source = Pictures(grey(1), grey(2), grey(1), contents=["a", "b", "a"])
    assert Measures(source, Known(), QUIET).of([], [2, 1, 0]) == {"decode": {"a": "ok", "b": "ok"}}
    assert source.decoded == Counter([0, 1])


def test_known_values_cost_no_decoding() -> None:
    known = Known()
    first = Measures(Pictures(grey(1), grey(2)), known, QUIET).of(["phash"], [0, 1])
    again = Pictures(AssertionError("decoded again"), AssertionError("decoded again"))
    assert Measures(again, known, QUIET).of(["phash"], [0, 1]) == first
    one_more = Pictures(AssertionError("decoded again"), AssertionError("no"), grey(3))
    facts = Measures(one_more, known, QUIET).of(["phash"], [0, 2])
    assert facts["phash"].keys() == {f"{0:064x}", f"{2:064x}"}
    assert one_more.decoded == Counter([2])


def test_values_of_another_rendering_are_not_taken() -> None:
    known = Known()
    white, black = Pictures(checkerboard(8)), Pictures(grey(0))
    Measures(white, known, QUIET, "#ffffff").of(["sharpness"], [0])
    facts = Measures(black, known, QUIET, "#000000").of(["sharpness"], [0])
    assert facts["sharpness"][f"{0:064x}"] == "0"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PictureError("cannot be decoded (cut off); replace it"), "cannot be decoded (cut off);"),
        (DataError("0.png: has changed"), "0.png: has changed"),
        (PermissionError(13, "Permission denied", "0.png"), "Permission denied; check the file"),
        (OSError("odd"), "odd; check the file"),
    ],
)
def test_what_cannot_be_decoded_is_found_not_raised(error: Exception, reason: str) -> None:
    source = Pictures(error, grey(2), error, contents=["bad", "good", "bad"])
    known = Known()
    facts = Measures(source, known, QUIET).of(["phash"], range(3))
    assert facts["decode"]["good"] == SOUND
    assert facts["phash"].keys() == {"good"}
    findings = unreadable(source.pictures, range(3), facts)
    assert [(i, f.name, f.kind, f.severity) for i, f in findings.items()] == [
        (0, "0.png", "unreadable", ERROR),
        (2, "2.png", "unreadable", ERROR),
    ]
    assert findings[0].reason.startswith(reason)
    # repaired: the fault is not remembered
    repaired = Pictures(grey(1), grey(2), grey(1), contents=["bad", "good", "bad"])
    assert not unreadable(
        repaired.pictures, range(3), Measures(repaired, known, QUIET).of([], range(3))
    )


def test_a_picture_that_was_lost_since_is_found() -> None:
    known = Known()
    Measures(Pictures(grey(1)), known, QUIET).of([], [0])
    lost = Pictures(PictureError("is gone"))
    facts = Measures(lost, known, QUIET).of(["phash"], [0])
    assert [f.reason for f in unreadable(lost.pictures, [0], facts).values()] == ["is gone"]


def test_a_stopped_check_keeps_what_it_measured() -> None:
    images = [grey(i % 256) for i in range(600)]
    known = Known()
    with pytest.raises(RuntimeError, match="stopped"):
        Measures(Pictures(*images[:400], RuntimeError("stopped")), known, QUIET).of([], range(401))
    rest = Pictures(*images)
    Measures(rest, known, QUIET).of([], range(600))
    assert 300 <= len(rest.decoded) < 400
    assert rest.decoded[599] == 1
    assert QUIET.tasks() == []


def test_boxes_are_found_again_by_another_file_of_the_detector(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    monkeypatch.setattr(measures, "require_detector", lambda detector: None)
    weights = tmp_path / ".deepface" / "weights" / "centerface.onnx"
    weights.parent.mkdir(parents=True)
    source, index = Pictures(Image.new("L", (8, 8))), Known()
    boxes = []
    for data, left in ((b"old", 1), (b"old", 2), (b"new", 3)):
        weights.write_bytes(data)
        monkeypatch.setattr(measures, "find_face", lambda image, detector, x=left: (x, 0, 4, 4))
        facts = Measures(source, index, QUIET).of(["face:centerface"], [0])
        boxes += facts["face:centerface"].values()
    assert boxes == ["1 0 4 4", "1 0 4 4", "3 0 4 4"]


@pytest.mark.parametrize("kind", ["colour", "face:", "face:nobody"])
def test_unknown_kinds_are_refused_before_decoding(kind: str) -> None:
    source = Pictures(grey(1))
    with pytest.raises(ValueError, match="unknown; choose"):
        Measures(source, Known(), QUIET).of([kind], [0])
    assert not source.decoded


def test_boxes() -> None:
    assert box("1 2 30 40") == (1, 2, 30, 40)
    assert box("") is None
