"""Pictures of a run: by themselves, below each other, and with what they were drawn from."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdlora.evaluation.evaluated import Evaluation
from sdlora.runs.samples import (
    read_prompts,
    read_samples,
    write_grid,
    write_pictures,
    write_prompts,
    write_samples,
)
from sdlora.sampling.prompts import Prompt, picture_name

PROMPTS = tuple(Prompt(text, seed) for text in ("a man", "a hat") for seed in (0, 1))


def flat(red: int) -> Image.Image:
    """Of a colour that the grey edges of letters do not have."""
    return Image.new("RGB", (128, 128), (red, 0, 99))


def has(sheet: np.ndarray, red: int) -> np.ndarray:
    return (sheet == (red, 0, 99)).all(axis=2)


def test_the_grid_shows_base_above_lora_above_training(
    tmp_path: Path,
) -> None:
    base = Evaluation(PROMPTS, [flat(40 + i) for i in range(4)])
    training = [flat(200 + i) for i in range(5)]
    lora = Evaluation(PROMPTS, [flat(90 + i) for i in range(4)])
    path = tmp_path / "samples" / "step.png"
    sheet = write_grid(path, {"base": base, "step 5": lora}, 3, training)
    read = np.asarray(Image.open(path).convert("RGB"), dtype=np.int16)
    np.testing.assert_array_equal(read, np.asarray(sheet))

    def place(red: int) -> tuple[int, int]:
        rows, columns = np.nonzero(has(read, red))
        assert (np.ptp(rows), np.ptp(columns)) == (127, 127), red
        return int(rows.min()), int(columns.min())

    corners = [[place(first + i) for i in range(3)] for first in (40, 90, 200)]
    tops = [{top for top, _ in row} for row in corners]
    assert all(len(top) == 1 for top in tops)
    assert max(tops[0]) < max(tops[1]) < max(tops[2])
    lefts = [[left for _, left in row] for row in corners]
    assert lefts[0] == lefts[1] == lefts[2] == sorted(lefts[0])
    assert not has(read, 43).any()  # the fourth is no preview


def test_the_longest_row_of_a_grid_has_its_prompts(tmp_path: Path) -> None:
    one = Evaluation([Prompt("zebra", 0)], [flat(40)])
    three = Evaluation(PROMPTS[:3], [flat(90 + i) for i in range(3)])
    for rows in ({"a": one, "b": three}, {"a": three, "b": one}):
        read = np.asarray(write_grid(tmp_path / "grid.png", rows, 4), dtype=np.int16)
        assert all(has(read, red).any() for red in (40, 90, 91, 92))


def test_each_picture_is_written_by_itself(tmp_path: Path) -> None:
    drawn = Evaluation(PROMPTS, [flat(10 * i) for i in range(4)])
    write_samples(tmp_path, "last", drawn, PROMPTS)
    expected = [picture_name(i, prompt.text) for i, prompt in enumerate(PROMPTS)]
    paths = sorted((tmp_path / "samples" / "last").iterdir())
    assert [path.name for path in paths] == expected
    for index, path in enumerate(paths):
        assert has(np.asarray(Image.open(path)), 10 * index).all()
    listed = json.loads((tmp_path / "samples" / "prompts.json").read_text("utf-8"))
    assert [(item["file"], item["text"], item["seed"]) for item in listed] == [
        (name, prompt.text, prompt.seed) for name, prompt in zip(expected, PROMPTS, strict=True)
    ]
    write_samples(tmp_path, "step_0000003", drawn, PROMPTS, most=3)
    preview = sorted(path.name for path in (tmp_path / "samples" / "step_0000003").iterdir())
    assert preview == expected[:3]
    read = read_samples(tmp_path, "last")
    assert [text for text, _ in read] == [prompt.text for prompt in PROMPTS]
    assert [image.getpixel((0, 0))[0] for _, image in read] == [0, 10, 20, 30]


def test_pictures_from_anywhere_stand_below_each_other(tmp_path: Path) -> None:
    """Rows of other lengths: what is not there stays white."""
    rows = {
        "a": Evaluation(PROMPTS[:1], [flat(10)]),
        "b": Evaluation(PROMPTS, [flat(20 + i) for i in range(4)]),
    }
    write_grid(tmp_path / "grid.png", rows, 3)
    read = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))
    assert [has(read, red).sum() for red in (10, 20, 21, 22, 23)] == [128 * 128] * 4 + [0]
    write_pictures(tmp_path / "a", rows["a"])
    (path,) = (tmp_path / "a").iterdir()
    assert path.name == picture_name(0, "a man")
    assert has(np.asarray(Image.open(path)), 10).all()


def test_the_prompts_of_several_folders_are_listed_once(tmp_path: Path) -> None:
    other = (Prompt("a man", 0), Prompt("a cat", 7))
    write_prompts(tmp_path, [PROMPTS[:2], other, other])
    listed = json.loads((tmp_path / "prompts.json").read_text("utf-8"))
    assert {(item["file"], item["text"], item["seed"]) for item in listed} == {
        (picture_name(0, "a man"), "a man", 0),
        (picture_name(1, "a man"), "a man", 1),
        (picture_name(1, "a cat"), "a cat", 7),
    }
    assert len(listed) == 3
    assert read_prompts(tmp_path)[picture_name(1, "a cat")] == "a cat"


def test_a_list_of_prompts_of_another_shape_is_named(tmp_path: Path) -> None:
    assert read_prompts(tmp_path) == {}
    path = tmp_path / "prompts.json"
    path.write_text('[{"name": "a.png"}]', "utf-8")
    with pytest.raises(ValueError, match=r"prompts.json: no list of {file, text}"):
        read_prompts(tmp_path)
