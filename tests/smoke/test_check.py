"""``check=true``: without a model on this machine, at its true sizes, and with what comes next."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.smoke.conftest import SMALL, TrainHere

NOT_HERE = ("model=sd15", "model.path=owner/elsewhere", "model.config=null")
"""A base that would have to be fetched."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve captioned pictures, lying, standing and square; the same in every run of the test."""
    folder, draw = tmp_path / "photos", np.random.default_rng(1)
    folder.mkdir()
    for number, size in enumerate([(900, 600), (600, 900), (700, 700)] * 4):
        pixels = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg")
        (folder / f"{number:02d}.txt").write_text(f"picture {number}", "utf-8")
    return folder


def test_it_needs_no_model(
    photos: Path, train_here: TrainHere, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = tmp_path / "check"
    train_here(
        "check=true",
        *NOT_HERE,
        f"data.root={photos}",
        "data.buckets.mode=auto",
        "data.prior.mode=class",
        "data.prior.prompt=a thing",
        "data.val_fraction=0.25",
        "evaluation=none",
        f"run_dir={run}",
    )
    told = capsys.readouterr().out
    assert "the files of model.path=owner/elsewhere are not on this machine" in told
    assert "sides are multiples of 64 px" in told
    assert "not checked: whether captions fit its tokenizer" in told
    assert "not checked, without the base's files: objective, sampler and the layers" in told
    assert "the run will draw 100 class pictures into" in told
    held_out = next(line for line in told.splitlines() if "are held out (data.val_fr" in line)
    sheet = json.loads((run / "dataset.json").read_text("utf-8"))
    trained = {each["name"] for each in sheet["pictures"]}
    names = held_out.rpartition(": ")[2].removesuffix(", ...").split(", ")
    assert set(sheet["held_out"]) == {f"{number:02d}.jpg" for number in range(12)} - trained
    assert set(names) <= set(sheet["held_out"])
    sheet = json.loads((run / "dataset.json").read_text("utf-8"))
    assert {tuple(each["size"]) for each in sheet["buckets"]} == {
        (640, 384),
        (384, 640),
        (512, 512),
    }
    assert 0 < sheet["counts"]["pictures"] < 12
    assert f"Look at: {(run / 'contact_sheet.png').as_posix()}" in told
    assert f"Look at: {(run / 'data.html').as_posix()}" in told
    page = (run / "data.html").read_text("utf-8")
    assert page.count('data-enlarge="one"') == sheet["counts"]["pictures"]
    assert not (run / "class_pictures").exists()


def test_class_pictures_that_are_there_count(
    photos: Path, train_here: TrainHere, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    classes = tmp_path / "classes"
    classes.mkdir()
    Image.new("RGB", (64, 64), "red").save(classes / "a.png")
    train_here(
        "check=true",
        *NOT_HERE,
        f"data.root={photos}",
        "data.prior.mode=class",
        "data.prior.prompt=a thing",
        f"data.prior.root={classes}",
        "data.prior.num_pictures=5",
        "evaluation=none",
        f"run_dir={tmp_path / 'check'}",
    )
    told = capsys.readouterr().out
    assert f"the run will draw 4 class pictures into {classes}; they are not in this" in told
    assert "training includes 1 class pictures" in told


def test_a_resolution_that_the_family_cannot_take_is_refused_without_its_files(
    photos: Path, message_of: Callable[..., str], tmp_path: Path
) -> None:
    given = ("check=true", *NOT_HERE, f"data.root={photos}", f"run_dir={tmp_path / 'check'}")
    told = message_of(*given, "data.resolution=504", "evaluation=none")
    assert told.startswith("data.resolution=504: this model needs a multiple of 64")


def test_what_training_would_refuse_before_it_reads_weights_is_refused(
    photos: Path, message_of: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "check"
    given = ("check=true", f"data.root={photos}", f"run_dir={folder}", "evaluation=none")
    told = message_of(*given, "lora.unet.targets=[to_queries]")
    assert told.startswith("lora.unet.targets=to_queries: ")
    told = message_of(*given, "lora.type=oft", "lora.oft_block_size=48")
    assert "set lora.oft_block_size=32" in told
    assert not (folder / "dataset.json").exists()  # before any picture is decoded
    told = message_of(*given, "lora.new_word.name=zq", "lora.new_word.init=person")
    assert told.startswith("lora.new_word.name=zq: ")


@pytest.mark.slow
def test_what_comes_next_trains(
    photos: Path,
    random_base: Path,
    train_here: TrainHere,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    small = (*SMALL, f"model.path={random_base}", "data.resolution=32", "trainer.max_steps=1")
    train_here("check=true", *small, f"data.root={photos}", f"run_dir={tmp_path / 'check'}")
    command = capsys.readouterr().out.strip().splitlines()[-1].partition("Next, train: ")[2]
    program, door, *given = shlex.split(command)
    assert (program, door) == ("sdlora", "train")
    train_here(*given, f"run_dir={tmp_path / 'run'}")
    assert (tmp_path / "run" / "lora" / "my_lora.safetensors").is_file()
