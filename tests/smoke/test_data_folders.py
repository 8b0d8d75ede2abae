"""Data folders as people have them, through the real command."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdlora.cli.written_values import quoted
from sdlora.data.pictures import picture_formats
from tests.smoke.conftest import SMALL, TrainHere

CHECK = ("check=true", "data.captions.default=a thing")


def photo(path: Path, number: int = 0) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_all_that_stops_a_run_is_one_list(
    tmp_path: Path, message_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_formats, "find_spec", lambda name: None)
    root = tmp_path / "photos"
    for number, name in enumerate(("web.jfif", "scan.tif", "new.avif", "cut.jpg", "black.png")):
        photo(root / name, number)
    os.truncate(root / "cut.jpg", 1_500)
    Image.new("RGBA", (48, 48), (255, 255, 255, 0)).save(root / "black-masklabel.png")
    (root / "phone.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic")
    (root / "layers.psd").write_bytes(b"8BPS")
    asked = ("data.captions.default=a thing", f"data.root={root}", f"run_dir={tmp_path / 'run'}")
    told = message_of(*asked)
    names = [line.strip().partition(":")[0] for line in told.splitlines()[1:-1]]
    assert told.startswith("4 finding(s) prevent training:")
    assert names == ["black.png", "cut.jpg", "layers.psd", "phone.heic"]
    assert 'pip install "sdlora[heic]"' in told
    checked = message_of(*asked[:2], "check=true", f"run_dir={tmp_path / 'check'}")
    assert checked.splitlines()[:-1] == told.splitlines()[:-1]


@pytest.mark.slow
def test_a_run_below_the_data_folder_is_no_part_of_the_next(
    tmp_path: Path,
    random_base: Path,
    train_only: TrainHere,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, runs = tmp_path / "photos", tmp_path / "photos" / "outputs"
    for number in range(2):
        photo(root / f"{number}.png", number)
    common = (
        *SMALL,
        f"model.path={random_base}",
        "data.captions.default=a thing",
        f"data.root={root}",
        "trainer.max_steps=1",
    )
    train_only(*common, f"run_dir={runs / 'first'}")
    assert list((runs / "first").rglob("*.png")), "it draws pictures"
    capsys.readouterr()
    train_only(*common, f"run_dir={runs / 'second'}")
    told = capsys.readouterr().out
    assert "2 pictures, 2 samples an epoch" in told
    assert "folder of a run outputs/first is not read (" in told
    train_only(f"resume={runs / 'first'}", "trainer.max_steps=2")
    assert "continuing from step 1 of 2" in capsys.readouterr().out


def test_a_changed_caption_is_named_on_resume(
    tmp_path: Path, random_base: Path, train_only: TrainHere, message_of: Callable[..., str]
) -> None:
    root = tmp_path / "photos"
    photo(root / "a.png")
    (root / "a.txt").write_text("a man", "utf-8")
    run = tmp_path / "run"
    train_only(
        *SMALL,
        f"model.path={random_base}",
        f"data.root={root}",
        "trainer.max_steps=1",
        f"run_dir={run}",
    )
    (root / "a.txt").write_text("a woman", "utf-8")
    told = message_of(f"resume={run}", "trainer.max_steps=2")
    assert "    changed caption: a.png" in told.splitlines()


def test_who_has_no_face_is_named_where_faces_are_cut(
    tmp_path: Path, train_only: TrainHere, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "photos"
    photo(root / "noise.png")
    train_only(
        *CHECK,
        f"data.root={root}",
        "data.crop=face",
        "data.face_detector=opencv",
        f"run_dir={tmp_path / 'run'}",
    )
    told = capsys.readouterr().out
    assert (
        "noise.png: no face found by data.face_detector=opencv, so it is cut around its centre"
        in told
    )


def test_several_folders_as_a_list_and_by_a_pattern(
    tmp_path: Path,
    train_only: TrainHere,
    message_of: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = [tmp_path / "sets" / name for name in ("her, in Paris", "it's [2]")]
    for number, folder in enumerate(folders):
        photo(folder / f"{number}.png", number)
    items = ",".join(quoted(str(folder)) for folder in folders)
    for asked in (f"data.root=[{items}]", f"data.root='{tmp_path}/sets/*'"):
        train_only(*CHECK, asked, f"run_dir={tmp_path / 'run'}")
        sheet = json.loads((tmp_path / "run" / "dataset.json").read_text("utf-8"))
        names = [each["name"] for each in sheet["pictures"]]
        assert names == ["her, in Paris/0.png", "it's [2]/1.png"]
    capsys.readouterr()
    told = message_of(*CHECK, f"data.root='{tmp_path}/gone*'")
    assert told == (
        f"data.root={tmp_path}/gone*: matches no folder; give a pattern of folders, such as "
        "photos/*"
    )
    photo(tmp_path / "sets" / "loose.png")
    told = message_of(*CHECK, f"data.root='{tmp_path}/sets/*'")
    assert f"sets/*: matches the picture {tmp_path}/sets/loose.png; give a pattern" in told
    assert message_of(*CHECK, "data.root=[]") == (
        "data.root=[]: must be paths of folders, such as [photos,more]"
    )


def test_folders_of_another_trainer(
    tmp_path: Path, train_only: TrainHere, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "img" / "10_ohwx woman" / "a.png")
    train_only("check=true", f"data.root={tmp_path / 'img'}", f"run_dir={tmp_path / 'run'}")
    told = capsys.readouterr().out
    assert "1 picture, 10 samples an epoch" in told
    assert "folder 10_ohwx woman: 10 repeats by its name, and 'ohwx woman' is the caption" in told


def test_file_names_as_captions(
    tmp_path: Path, train_only: TrainHere, message_of: Callable[..., str]
) -> None:
    photo(tmp_path / "photos" / "a_red_car (2).png")
    asked = ("check=true", f"data.root={tmp_path / 'photos'}", f"run_dir={tmp_path / 'run'}")
    assert "or set data.captions.from_name=true, or data.captions.default" in message_of(*asked)
    train_only(*asked, "data.captions.from_name=true")  # as it says
    sheet = json.loads((tmp_path / "run" / "dataset.json").read_text("utf-8"))
    assert [each["caption"] for each in sheet["pictures"]] == ["a red car"]
    told = message_of(*asked, "data.captions.from_name=true", "data.captions.default=a car")
    assert told.startswith("data.captions.from_name=True: and data.captions.default are both for")


@pytest.mark.slow
def test_names_of_any_letters_and_prompts_on_the_command_line(
    tmp_path: Path,
    random_base: Path,
    train_only: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for number in range(2):
        photo(tmp_path / "été (1)" / f"{number}.png", number)
    train_only(
        *SMALL[:1],
        *SMALL[2:],
        f"model.path={random_base}",
        f"data.root={tmp_path}/été (1)",
        "data.captions.default=it's a café",
        "sampling.prompts=[a man in snow,un café]",
        "trainer.max_steps=1",
        "run_dir=~/out",
    )
    prompts = json.loads((tmp_path / "out" / "samples" / "prompts.json").read_text("utf-8"))
    assert "un café" in json.dumps(prompts, ensure_ascii=False)
    sheet = json.loads((tmp_path / "out" / "dataset.json").read_text("utf-8"))
    assert [each["caption"] for each in sheet["pictures"]] == ["it's a café"] * 2
    train_only("resume=~/out", "trainer.max_steps=2")
    assert (tmp_path / "out" / "checkpoints" / "step_0000002").is_dir()
