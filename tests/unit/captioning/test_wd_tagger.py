"""The WD tagger: pixels, tags above their thresholds, and its files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdlora.captioning.captioner import Compute, Wishes
from sdlora.captioning.captioners import CAPTIONERS, chosen_captioner
from sdlora.captioning.wd_tagger import CHARACTER, GENERAL, Tag, WdTagger, load, tagger_pixels

TAGS = [
    Tag("safe", 9),
    Tag("long_hair", GENERAL),
    Tag("^_^", GENERAL),
    Tag("hat", GENERAL),
    Tag("hatsune_miku", CHARACTER),
]
CSV = "tag_id,name,category,count\n" + "".join(
    f"{number},{tag.name},{tag.category},9\n" for number, tag in enumerate(TAGS)
)


def test_a_picture_is_square_on_white_in_blue_green_red() -> None:
    pixels = tagger_pixels(Image.new("RGB", (8, 4), (255, 10, 0)), 8)
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.float32
    assert pixels[0].tolist() == [[255, 255, 255]] * 8
    assert pixels[3].tolist() == [[0, 10, 255]] * 8
    assert tagger_pixels(Image.new("RGB", (5, 30)), 16).shape == (16, 16, 3)


def test_tags_above_their_threshold_are_named_characters_first() -> None:
    rows = np.array([[0.99, 0.4, 0.9, 0.35, 0.86], [0.9, 0.1, 0.2, 0.3, 0.84]], np.float32)
    tagger = WdTagger(lambda _: rows, 4, TAGS, {GENERAL: 0.36, CHARACTER: 0.85})
    images = [Image.new("RGB", (4, 4))] * 2
    assert tagger.caption(images) == ["hatsune miku, ^_^, long hair", ""]


def test_a_folder_with_tags_is_a_tagger_and_needs_its_network(tmp_path: Path) -> None:
    (tmp_path / "selected_tags.csv").write_text(CSV)
    with pytest.raises(ValueError, match=r"has no model\.onnx; copy the whole model"):
        chosen_captioner(str(tmp_path))
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    assert chosen_captioner(str(tmp_path)).kind is CAPTIONERS["wd"]


@pytest.mark.parametrize("batch", ["N", 1])
def test_onnxruntime_gives_the_probabilities(tmp_path: Path, batch: str | int) -> None:
    """A network that tells the mean of blue, green and red, in its first, second and third tag."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    matrix = np.zeros((3, len(TAGS)), np.float32)
    matrix[0, 1] = matrix[1, 2] = matrix[2, 3] = 1 / 255
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["mean", "matrix"], ["tags"]),
        ],
        "tagger",
        [helper.make_tensor_value_info("pixels", real, [batch, 8, 8, 3])],
        [helper.make_tensor_value_info("tags", real, [batch, len(TAGS)])],
        [onnx.numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "selected_tags.csv").write_text(CSV)
    tagger = load(tmp_path, Compute(torch.device("cpu"), torch.float32), Wishes(general=0.5))
    images = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red", "white")]
    assert tagger.caption(images) == ["long hair", "hat", "^_^, hat, long hair"]
    (tmp_path / "selected_tags.csv").write_text(CSV + "9,more,0,9\n")
    with pytest.raises(ValueError, match=r"6 tags, the network 5"):
        load(tmp_path, Compute(torch.device("cpu"), torch.float32), Wishes())
