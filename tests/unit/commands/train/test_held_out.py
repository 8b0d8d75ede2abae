"""What a run holds out is said in one line, with the reason and the way to train on all."""

from pathlib import Path

import pytest
from PIL import Image

from sdlora.commands.train import run_pictures
from sdlora.runtime.progress import Progress
from tests.composed import train_config


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        Image.new("RGB", (64 + number, 64), "red").save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text("a man", "utf-8")
    return folder


def prepared(photos: Path, *given: str) -> tuple[int, int, str]:
    """Number of training and of held-out pictures, and what was printed."""
    arguments = [f"data.root={photos}", "data.cache.mode=memory", *given]
    config = train_config(*arguments)
    progress = Progress(enabled=False)
    with progress.console.capture() as said:
        data, held_out = run_pictures.run_pictures(config, photos.parent, progress)
    unseen = 0 if held_out is None else len(held_out.geometry)
    return len(data.geometry), unseen, " ".join(said.get().split())


def test_a_tenth_by_itself_and_the_remedy_trains_on_all(photos: Path) -> None:
    trained, unseen, said = prepared(photos, "data.val_fraction=null")
    assert (trained, unseen) == (27, 3)
    assert said == (
        "3 of 30 pictures are held out (a tenth, for validation loss and scores, as no other "
        "pictures are held out; data.val_fraction=0 trains on all): p19.png, p27.png, p5.png"
    )
    assert prepared(photos, "data.val_fraction=0") == (30, 0, "")


def test_the_embedded_base_and_a_folder_of_others_hold_out_nothing(photos: Path) -> None:
    assert prepared(photos) == (30, 0, "")
    (photos / "held_out").mkdir()
    Image.new("RGB", (64, 64), "lime").save(photos / "held_out" / "other.png")
    trained, unseen, _ = prepared(photos, "data.val_fraction=null")
    assert (trained, unseen) == (30, 0)
