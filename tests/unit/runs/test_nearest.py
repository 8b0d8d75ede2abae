"""``nearest.json``: the pictures nearest to training pictures, by their names on the disk."""

from pathlib import Path

from PIL import Image

from sdlora.config.data import RootConfig
from sdlora.data.sources.folder_source import FolderSource
from sdlora.evaluation.evaluated import Evaluation
from sdlora.evaluation.scores import Scores
from sdlora.runs.nearest import read_nearest, write_nearest
from sdlora.runs.samples import write_pictures
from sdlora.sampling.prompts import Prompt


def test_pairs_are_named_as_they_lie_there_the_nearest_first(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (600, 300)).save(tmp_path / f"{name}.png")
    source = FolderSource([RootConfig(path=str(tmp_path))], default_caption="x")
    prompts = [Prompt("a cat", 0), Prompt("a dog", 0), Prompt("gone", 0)]
    run = tmp_path / "run"
    pictures = Evaluation(prompts, [Image.new("RGB", (8, 8))] * 3)
    write_pictures(run / "samples" / "last", pictures)
    columns = {
        "training_similarity": [0.25, 0.75, 1.0],
        "nearest_training": ["a.png", "b.png", "not_there.png"],
    }
    write_nearest(run, Scores(3, {}, per_picture=columns), prompts, source)
    notes: list[str] = []
    pairs = read_nearest(run, notes)
    assert notes == []
    assert [(each["prompt"], each["name"], each["similarity"]) for each in pairs] == [
        ("a dog", "b.png", 0.75),
        ("a cat", "a.png", 0.25),
    ]
    assert all((run / each["picture"]).is_file() for each in pairs)
    with Image.open(run / pairs[0]["training"]) as shown:
        assert shown.size == (512, 256)


def test_without_similarities_nothing_is_written(tmp_path: Path) -> None:
    source = FolderSource([RootConfig(path=str(tmp_path))], default_caption="x")
    write_nearest(tmp_path, Scores(0, {}), [], source)
    assert read_nearest(tmp_path, []) == []
