"""Masks by the usual names, and masks and captions in folders of their own."""

from pathlib import Path

import pytest
from PIL import Image

from sdlora.config.data import RootConfig
from sdlora.data.sources.folder_source import FolderSource

GREYS = iter(range(1, 255))


def picture(path: Path, caption: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)


def mask(path: Path) -> int:
    """Write a mask of a grey of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = next(GREYS)
    Image.new("L", (40, 30), grey).save(path)
    return grey


def source_of(*folders: Path, **options: object) -> FolderSource:
    return FolderSource([RootConfig(path=str(each)) for each in folders], **options)


def masks(source: FolderSource) -> dict[str, int | None]:
    found = {}
    for number, each in enumerate(source.pictures):
        image = source.mask(number)
        found[each.name] = None if image is None else image.getpixel((0, 0))
    return found


def said(source: FolderSource) -> list[str]:
    return [str(finding) for finding in source.findings]


@pytest.mark.parametrize(
    "name",
    [
        *("a.mask.png", "a_mask.png", "a-mask.png", "a_MASK.PNG", "a-masklabel.png"),
        *("a_masklabel.png", "a.mask.tif", "masks/a.png", "mask/a.bmp", "Masks/a_mask.png"),
    ],
)
def test_a_mask_under_a_usual_name_is_no_training_picture(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "b.jpg")
    grey = mask(tmp_path / name)
    source = source_of(tmp_path, default_caption="")
    assert masks(source) == {"a.jpg": grey, "b.jpg": None}
    assert said(source) == []


def test_who_wears_a_mask_is_a_picture_where_a_caption_says_so(tmp_path: Path) -> None:
    picture(tmp_path / "gas_mask.png", "a gas mask")
    assert masks(source_of(tmp_path)) == {"gas_mask.png": None}
    (tmp_path / "gas_mask.txt").unlink()
    source = source_of(tmp_path, default_caption="a thing")
    assert source.pictures == []
    assert said(source) == [
        "gas_mask.png: looks like the mask of a picture gas, which is not there; add the picture, "
        "or rename this one to train on it"
    ]
    (tmp_path / "gas_mask.png").rename(tmp_path / "gasmask.png")  # as it says
    assert masks(source_of(tmp_path, default_caption="a thing")) == {"gasmask.png": None}


def test_the_caption_of_a_mask_is_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "red")
    picture(tmp_path / "a_mask.png", "a black and white picture")
    assert said(source_of(tmp_path)) == ["a_mask.txt: caption of the mask of a; remove it"]


def test_folders_of_masks_and_captions_beside_folders_of_pictures(tmp_path: Path) -> None:
    for name in ("images/a.jpg", "images/sub/b.jpg"):
        picture(tmp_path / name)
    greys = [mask(tmp_path / "masks" / name) for name in ("a.png", "sub/b.png")]
    for name in ("a.txt", "sub/b.txt"):
        (tmp_path / "captions" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "captions" / name).write_text(f"caption {name[-5]}")
    source = source_of(tmp_path)
    assert said(source) == []
    assert masks(source) == dict(zip(["images/a.jpg", "images/sub/b.jpg"], greys, strict=True))
    assert [each.text for each in source.pictures] == ["caption a", "caption b"]


def test_a_name_in_two_folders_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "her/1.jpg", "she")
    picture(tmp_path / "him/1.jpg", "he")
    mask(tmp_path / "masks/1.png")
    mask(tmp_path / "masks/2.png")
    source = source_of(tmp_path)
    assert said(source) == [
        "masks/1.png: is of 2 pictures: her/1, him/1; put it beside its picture",
        "masks/2.png: mask without a picture; add the picture or remove it, or rename the folder "
        "if it holds pictures to train on",
    ]
    assert len(source.pictures) == 2


def test_a_folder_of_masks_with_captions_must_be_one_of_both(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", "a face")
    picture(tmp_path / "masks/1.jpg", "a wooden mask")
    assert said(source_of(tmp_path)) == [
        "masks: is a folder of masks by its name, but holds captions; rename it if these are "
        "pictures to train on, or remove the captions"
    ]
    (tmp_path / "masks").rename(tmp_path / "wood")  # as it says
    assert masks(source_of(tmp_path)) == {"a.jpg": None, "wood/1.jpg": None}
    # given by name it is what the user says
    (tmp_path / "wood").rename(tmp_path / "masks")
    assert masks(source_of(tmp_path / "masks")) == {"1.jpg": None}


def test_faults_of_such_files_carry_their_own_names(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions/a.txt").write_text(" ")
    (tmp_path / "masks").mkdir()
    Image.new("L", (30, 40)).save(tmp_path / "masks/a.png")
    assert said(source_of(tmp_path)) == [
        "captions/a.txt: is empty; write what the picture shows",
        "masks/a.png: is 30x40 pixels, its picture 40x30; make them equal",
    ]


def test_each_root_has_its_own(tmp_path: Path) -> None:
    greys = []
    for root in ("x", "masks"):  # the second is given by name, and so holds pictures
        picture(tmp_path / root / "a.jpg", "red")
        greys.append(mask(tmp_path / root / "masks/a.png"))
    source = source_of(tmp_path / "x", tmp_path / "masks")
    assert said(source) == []
    assert masks(source) == {"masks/a.jpg": greys[1], "x/a.jpg": greys[0]}
