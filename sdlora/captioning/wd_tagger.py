"""The captioner of WD taggers: tags of Danbooru, in the layout of SmilingWolf's models."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from sdlora.captioning.captioner import Compute, Wishes
from sdlora.captioning.captioners import TAGS_FILE
from sdlora.captioning.network_loading import cannot_load

MODEL_FILE = "model.onnx"
GENERAL, CHARACTER = 0, 4
"""Categories of tags; all others, such as the rating (9), are left out."""

_KAOMOJI = frozenset(
    (
        *("0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3"),
        *("6_9", ">_o", "@_@", "^_^", "o_o", "u_u", "x_x", "|_|", "||_||"),
    )
)
"""Tags whose underscores are no spaces, as the model's author lists them."""


class Tag(NamedTuple):
    """A tag that the network knows, in the order of its outputs."""

    name: str
    category: int


@dataclass(frozen=True, slots=True)
class WdTagger:
    """A tagger.

    Attributes:
        probabilities: Pictures ``[n, side, side, 3]``, float32, BGR, 0 to 255 -> probabilities of
            all tags, ``[n, tags]``.
        side: Of a picture, in pixels.
        tags: The network's.
        thresholds: Category -> probability from which a tag of it counts.
    """

    probabilities: Callable[[np.ndarray], np.ndarray]
    side: int
    tags: Sequence[Tag]
    thresholds: dict[int, float]

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """The tags of pictures, characters first, the most probable first; see ``Captioner``."""
        pixels = np.stack([tagger_pixels(image, self.side) for image in images])
        return [", ".join(self._named(row)) for row in self.probabilities(pixels)]

    def _named(self, row: np.ndarray) -> list[str]:
        found = [
            (tag.category == GENERAL, -float(value), tag.name)
            for tag, value in zip(self.tags, row, strict=True)
            if value > self.thresholds.get(tag.category, 1.0)
        ]
        return [_spaced(name) for _, _, name in sorted(found)]


def tagger_pixels(image: Image.Image, side: int) -> np.ndarray:
    """A picture as the network reads it: square on white, ``[side, side, 3]``, BGR, 0 to 255."""
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), "white")
    left, top = ((longest - length) // 2 for length in image.size)
    square.paste(image, (left, top))
    if longest != side:
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square, dtype=np.float32)[:, :, ::-1])


def read_tags(path: Path) -> list[Tag]:
    """Read the list of tags: columns ``name`` and ``category``."""
    with path.open(encoding="utf-8", newline="") as file:
        return [Tag(row["name"], int(row["category"])) for row in csv.DictReader(file)]


def load(folder: Path, compute: Compute, wishes: Wishes) -> WdTagger:
    """Load a tagger with onnxruntime, on the GPU if onnxruntime has one.

    Raises:
        CaptionerError: If its files are not what they should be.
    """
    import onnxruntime

    wanted = ["CUDAExecutionProvider"] * (compute.device.type == "cuda")
    there = onnxruntime.get_available_providers()
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in there]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(folder / MODEL_FILE, options, providers=providers)
        tags = read_tags(folder / TAGS_FILE)
        given, found = session.get_inputs()[0], session.get_outputs()[0]
        if found.shape[-1] != len(tags):
            raise ValueError(f"{TAGS_FILE} has {len(tags)} tags, the network {found.shape[-1]}")
    except Exception as error:  # of onnxruntime, without a class of their own
        raise cannot_load(folder, error) from error
    many = not isinstance(given.shape[0], int)  # older ones take one picture at a time

    def probabilities(pixels: np.ndarray) -> np.ndarray:
        parts = [pixels] if many else np.split(pixels, len(pixels))
        rows = [session.run([found.name], {given.name: part})[0] for part in parts]
        return np.concatenate(rows)

    thresholds = {GENERAL: wishes.general, CHARACTER: wishes.character}
    return WdTagger(probabilities, int(given.shape[1]), tags, thresholds)


def _spaced(name: str) -> str:
    return name if name in _KAOMOJI else name.replace("_", " ")
