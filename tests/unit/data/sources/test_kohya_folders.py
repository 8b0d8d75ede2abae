"""Folders, tables and names of other trainers are read where that is unambiguous."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sdlora.config.data import RootConfig
from sdlora.data.captions.caption_text import caption_of_name, looks_like_caption
from sdlora.data.sources.folder_source import FolderSource
from sdlora.data.sources.picture_source import DataError


def picture(path: Path, caption: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)


def source_of(*folders: Path, **options: object) -> FolderSource:
    return FolderSource([RootConfig(path=str(each)) for each in folders], **options)


def told(source: FolderSource) -> list[tuple[str, str, int]]:
    return [(each.name, each.text, each.repeats) for each in source.pictures]


def test_repeats_and_caption_from_the_folder_name(tmp_path: Path) -> None:
    picture(tmp_path / "10_ohwx woman/a.png")
    picture(tmp_path / "10_ohwx woman/b.png", "her own")
    picture(tmp_path / "10_ohwx woman/deep/c.png")
    picture(tmp_path / "2_style/d.png")
    picture(tmp_path / "held_out/e.png", "unseen")
    source = source_of(tmp_path)
    assert told(source) == [
        ("10_ohwx woman/a.png", "ohwx woman", 10),
        ("10_ohwx woman/b.png", "her own", 10),
        ("10_ohwx woman/deep/c.png", "ohwx woman", 10),
        ("2_style/d.png", "style", 2),
    ]
    assert source.findings == []
    assert source.notes[:2] == [
        "folder 10_ohwx woman: 10 repeats by its name, and 'ohwx woman' is the caption of its "
        "pictures without one; data.trigger_word=ohwx data.class_word='woman' name it to prompts "
        "and scores",
        "folder 2_style: 2 repeats by its name, and 'style' is the caption of its pictures "
        "without one",
    ]


def test_what_is_set_by_hand_wins_and_repeats_multiply(tmp_path: Path) -> None:
    picture(tmp_path / "x/3_dog/a.png")
    picture(tmp_path / "y/4_cat/b.png")
    roots = [
        RootConfig(path=str(tmp_path / "x"), repeats=2, class_caption="a dog"),
        RootConfig(path=str(tmp_path / "y")),
    ]
    assert told(FolderSource(roots)) == [
        ("x/3_dog/a.png", "a dog", 6),
        ("y/4_cat/b.png", "cat", 4),
    ]
    assert told(FolderSource(roots[1:], default_caption="")) == [("4_cat/b.png", "", 4)]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("2023_holiday/a.png",), "it may be a date or a place in an order"),
        (("01_face/a.png", "02_body/b.png"), "it may be a date or a place in an order"),
        (("10_dog/a.png", "cats/b.png"), "other folders have none"),
        (("10_dog/a.png", "b.png"), "pictures lie beside these folders"),
        (("1_a/a.png", "2_b/b.png", "3_c/c.png"), "the folders are numbered from 1 to 3"),
    ],
)
def test_a_number_that_may_mean_something_else_is_said(
    tmp_path: Path, names: tuple[str, ...], reason: str
) -> None:
    for name in names:
        picture(tmp_path / name, "own")
    source = source_of(tmp_path)
    assert {repeats for _, _, repeats in told(source)} == {1}
    (note,) = source.notes
    assert f"is not taken for repeats, since {reason}; if it is, set data.root=null " in note


def test_kohyas_layout_is_told_what_to_set(tmp_path: Path) -> None:
    picture(tmp_path / "img/10_ohwx woman/a.png")
    picture(tmp_path / "model/sample/drawn.png")
    with pytest.raises(
        DataError, match=rf"is laid out for kohya's trainer; set data.root='{tmp_path}/img'$"
    ):
        source_of(tmp_path)
    picture(tmp_path / "reg/1_woman/b.png")
    with pytest.raises(
        DataError, match=r"data.prior.mode=class data.prior.root='.*/reg' data.class"
    ):
        source_of(tmp_path)
    assert told(source_of(tmp_path / "img")) == [("10_ohwx woman/a.png", "ohwx woman", 10)]


def test_kohyas_table_names_pictures_without_ending(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "sub/b.png")
    table = {"a": {"caption": "red"}, "sub/b.png": {"tags": "blue"}, "gone": {"tags": "x"}}
    (tmp_path / "meta_cap.json").write_text(json.dumps(table))
    source = source_of(tmp_path)
    assert told(source) == [("a.png", "red", 1), ("sub/b.png", "blue", 1)]
    assert [str(each) for each in source.findings] == [
        "meta_cap.json: line 3: gone is not there; add it or remove the line"
    ]
    (tmp_path / "meta_lat.json").write_text(json.dumps(table))
    assert "meta_lat.json: a table of captions beside meta_cap.json; keep one of them" in map(
        str, source_of(tmp_path).findings
    )


def test_a_table_of_another_name_is_read_by_its_columns(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "prompts.csv").write_text("image,prompt\na.png,red\n")
    (tmp_path / "scores.csv").write_text("image,score\na.png,1\n")
    source = source_of(tmp_path)
    assert told(source) == [("a.png", "red", 1)]
    assert source.notes == ["table of captions prompts.csv: image, prompt"]
    assert [str(each) for each in source.findings] == [
        "scores.csv: is not read: not one column of file names (file_name) and one of captions "
        "(text); rename its columns if it holds captions"
    ]
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,blue\n")
    assert [str(each) for each in source_of(tmp_path).findings][0] == (
        "prompts.csv: a table of captions beside metadata.csv; keep one of them"
    )


def test_file_names_are_captions_where_asked(tmp_path: Path) -> None:
    for name in ("a_red_car (2).png", "a blue car 13.png", "IMG_2041.png", "own.png"):
        picture(tmp_path / name, "written" if name == "own.png" else None)
    source = source_of(tmp_path, from_name=True)
    assert told(source) == [
        ("IMG_2041.png", "IMG", 1),
        ("a blue car 13.png", "a blue car", 1),
        ("a_red_car (2).png", "a red car", 1),
        ("own.png", "written", 1),
    ]
    reasons = {each.name: each.reason for each in source_of(tmp_path).findings}
    assert reasons["a_red_car (2).png"] == (
        "no caption file a_red_car (2).txt; write it, or set data.captions.from_name=true, or "
        "data.captions.default"
    )
    assert "from_name" not in reasons["IMG_2041.png"]
    picture(tmp_path / "0001.png")
    (finding,) = source_of(tmp_path, from_name=True).findings
    assert finding.name == "0001.png"


def test_captions_of_names() -> None:
    assert caption_of_name("a_red_car-07") == "a red car"
    assert caption_of_name("12") is None
    assert looks_like_caption("a woman in snow (3)")
    assert not looks_like_caption("DSC_0001 copy")
