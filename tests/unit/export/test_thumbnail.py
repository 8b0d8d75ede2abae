"""Thumbnails in headers: what they show, how small they are, and that nothing else changes."""

import base64
import io
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin
from safetensors import safe_open

from sdlora.adapters.weights import read_weights, write_weights
from sdlora.export.thumbnail import THUMBNAIL, add_thumbnail, thumbnail_uri


def picture(path: Path, side: int = 1024) -> Image.Image:
    """Left half red, right half blue, in a file that says where it came from."""
    image = Image.new("RGB", (side, side // 2), "red")
    image.paste("blue", (side // 2, 0, side, side // 2))
    said = PngImagePlugin.PngInfo()
    for key in ("parameters", "comment"):
        said.add_text(key, "/somebody/photos")
    image.save(path, pnginfo=said)
    return Image.open(path)


def decoded(uri: str) -> Image.Image:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    raw = base64.b64decode(data, validate=True)
    assert b"somebody" not in raw
    return Image.open(io.BytesIO(raw))


def test_the_header_holds_the_picture_alone_and_the_weights_stay(tmp_path: Path) -> None:
    path, entries = tmp_path / "lora.safetensors", {"ss_output_name": "Porträt"}
    tensors = {"a.lora_down.weight": torch.rand(3, 5), "a.alpha": torch.tensor(3.0)}
    write_weights(path, tensors, entries)
    before = read_weights(path)
    add_thumbnail([path], picture(tmp_path / "drawn.png"))
    found, metadata = read_weights(path)  # its seal holds
    assert {key: value for key, value in metadata.items() if key != THUMBNAIL} == before[1]
    assert all(torch.equal(found[key], value) for key, value in before[0].items())
    with safe_open(path, "pt") as file:  # the library's own reader
        shown = decoded(file.metadata()[THUMBNAIL])
    assert shown.size == (256, 128)
    for x, strong, weak in ((40, 0, 2), (210, 2, 0)):
        colour = shown.getpixel((x, 64))
        assert isinstance(colour, tuple)
        assert colour[strong] > 200 > 100 > colour[weak]
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    add_thumbnail([path], Image.new("L", (64, 64)))  # a later one replaces it
    assert decoded(read_weights(path)[1][THUMBNAIL]).size == (64, 64)  # never enlarged


def test_a_picture_that_compresses_badly_stays_far_below_what_a_header_takes() -> None:
    noise = torch.randint(0, 256, (1024, 1024, 3), dtype=torch.uint8)
    assert len(thumbnail_uri(Image.fromarray(noise.numpy()))) < 2**17
