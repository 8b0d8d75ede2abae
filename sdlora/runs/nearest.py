"""``nearest.json``: the drawn pictures nearest to training pictures, with those."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdlora.data.sources.picture_source import PictureSource
from sdlora.evaluation.scores import Scores
from sdlora.runs.partial_files import mapping
from sdlora.runs.samples import LAST, SAMPLES
from sdlora.runtime.files import atomic_path, write_json
from sdlora.sampling.prompts import Prompt, picture_name

NEAREST = "nearest.json"
NUM_SHOWN = 8
SIDE_PX = 512


def write_nearest(
    folder: Path,
    scores: Scores,
    prompts: Sequence[Prompt],
    source: PictureSource,
    pictures: str = f"{SAMPLES}/{LAST}",
) -> None:
    """Write ``nearest.json`` and the training pictures that it names beside a report.

    Args:
        folder: Folder of the report.
        scores: Their scores; without a similarity to training pictures nothing is written.
        prompts: Their prompts, in order.
        source: The training pictures.
        pictures: Folder of the pictures that were scored, inside ``folder``.
    """
    likeness = scores.per_picture.get("training_similarity")
    if likeness is None:
        return
    names = scores.per_picture["nearest_training"]
    number_of = {picture.name: number for number, picture in enumerate(source.pictures)}
    order = sorted(range(len(likeness)), key=lambda index: -likeness[index])
    pairs: list[dict[str, str | float]] = []
    for index in [index for index in order if names[index] in number_of][:NUM_SHOWN]:
        training = f"{SAMPLES}/nearest/{len(pairs):02d}.png"
        image = source.image(number_of[names[index]])
        image.thumbnail((SIDE_PX, SIDE_PX))
        with atomic_path(folder / training) as temporary:
            image.save(temporary)
        pairs.append(
            {
                "picture": f"{pictures}/{picture_name(index, prompts[index].text)}",
                "prompt": prompts[index].text,
                "training": training,
                "name": names[index],
                "similarity": likeness[index],
            }
        )
    write_json(folder / NEAREST, pairs)


def read_nearest(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The pairs as they were written; empty where there are none.

    Args:
        folder: Folder of the report; it may come from elsewhere, so values have any shape.
        notes: Gets the reason if the file cannot be read.
    """
    path = folder / NEAREST
    if not path.is_file():
        return []
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"{NEAREST} cannot be read ({error}).")
        return []
    return [mapping(entry) for entry in listed] if isinstance(listed, list) else []
