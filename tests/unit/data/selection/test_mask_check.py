"""Masks that leave nothing to train, or that cannot be read, are findings before training."""

import os
from pathlib import Path

from PIL import Image

from sdlora.config.data import RootConfig
from sdlora.data.pictures.cuts import fitted
from sdlora.data.selection.mask_check import mask_findings
from sdlora.data.sources.file_index import FileIndex
from sdlora.data.sources.folder_source import FolderSource


def masked(folder: Path, name: str, *white: tuple[int, int, int, int]) -> Path:
    """A picture of 60x20 pixels with a mask that is white in these boxes."""
    mask = Image.new("L", (60, 20))
    for box in white:
        mask.paste(255, box)
    Image.new("RGB", (60, 20), name).save(folder / f"{name}.png")
    mask.save(folder / f"{name}.mask.png")
    return folder / f"{name}.mask.png"


def found(
    folder: Path, index: FileIndex, square: bool = True, alpha: bool = False
) -> dict[str, str]:
    source = FolderSource(
        [RootConfig(path=str(folder))], default_caption="", alpha_is_mask=alpha, index=index
    )
    cuts = [fitted(each.size, (20, 20)) for each in source.pictures] if square else None
    findings = mask_findings(source, index, cuts)
    assert [source.pictures[n].name for n in findings] == [f.name for f in findings.values()]
    return {each.name: each.reason for each in findings.values()}


BLACK = (
    "its mask is all black, so that nothing of it is trained; paint white what is to be, or "
    "remove the mask"
)
CUT_AWAY = (
    "its mask is black in all that the cut leaves; crop the picture by hand, or remove the mask"
)


def test_what_leaves_nothing_is_named(tmp_path: Path) -> None:
    masked(tmp_path, "red", (25, 5, 35, 15))
    masked(tmp_path, "lime")
    masked(tmp_path, "blue", (0, 0, 20, 20))  # the cut keeps 20 to 40
    masked(tmp_path, "gold", (0, 0, 21, 20))
    Image.new("RGB", (60, 20)).save(tmp_path / "plain.png")
    with FileIndex(None) as index:
        wanted = {"blue.png": CUT_AWAY, "lime.png": BLACK}
        assert found(tmp_path, index) == wanted
        assert found(tmp_path, index) == wanted  # as known
        assert found(tmp_path, index, square=False) == {"lime.png": BLACK}


def test_boxes_are_kept_by_content(tmp_path: Path) -> None:
    mask = masked(tmp_path, "red", (25, 5, 35, 15))
    with FileIndex(None) as index:
        assert found(tmp_path, index) == {}
        (kept,) = index.facts("mask_box/1", [_content(tmp_path, index)]).values()
        assert kept == "25 5 35 15"
        index.store_facts("mask_box/1", {_content(tmp_path, index): ""})
        assert found(tmp_path, index) == {"red.png": BLACK}  # not read again
        masked(tmp_path, "red", (25, 5, 35, 16))
        assert found(tmp_path, index) == {}
        assert mask.is_file()


def _content(folder: Path, index: FileIndex) -> str:
    source = FolderSource([RootConfig(path=str(folder))], default_caption="", index=index)
    return source.pictures[0].mask_content


def test_a_transparent_picture_masked_by_its_alpha(tmp_path: Path) -> None:
    Image.new("RGBA", (60, 20), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (60, 20), (0, 0, 0, 255)).save(tmp_path / "opaque.png")
    with FileIndex(None) as index:
        assert found(tmp_path, index, alpha=True) == {"clear.png": BLACK}
        assert found(tmp_path, index) == {}


def test_a_mask_that_is_cut_off_is_found_before_training(tmp_path: Path) -> None:
    mask = masked(tmp_path, "red")
    Image.effect_noise((60, 20), 90).save(mask)
    os.truncate(mask, mask.stat().st_size // 2)
    with FileIndex(None) as index:
        (reason,) = found(tmp_path, index).values()
        assert reason.startswith("its mask: cannot be decoded (")
        assert found(tmp_path, index) == {"red.png": reason}
