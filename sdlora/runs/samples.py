"""``samples/`` of a run: pictures of each state of the model, with their prompts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from sdlora.evaluation.evaluated import Evaluation
from sdlora.runtime.files import atomic_path, write_json
from sdlora.sampling.grid import grid
from sdlora.sampling.prompts import Prompt, picture_name

SAMPLES = "samples"
"""Folder of pictures in the run folder, with a sub-folder for each state of the model."""

BASE, LAST = "base", "last"
"""States of the model: without its adapter, and with its final weights."""

TRAINING = "training"
"""Folder of the first training pictures, as they are cut."""

PROMPTS = "prompts.json"


def step_name(step: int) -> str:
    """Folder name of the model's state at an optimizer step."""
    return f"step_{step:07d}"


def write_samples(
    run: Path,
    state: str,
    evaluation: Evaluation,
    prompts: Sequence[Prompt],
    most: int | None = None,
) -> None:
    """Write the pictures of one state of the model, and the list of all prompts.

    Args:
        run: The run folder.
        state: Name of the folder.
        evaluation: The pictures.
        prompts: All prompts of the run.
        most: Largest number of pictures; ``None``: all.
    """
    write_prompts(run / SAMPLES, [prompts])
    shown = Evaluation(evaluation.prompts[:most], evaluation.images[:most])
    write_pictures(run / SAMPLES / state, shown)


def write_grid(
    path: Path,
    rows: Mapping[str, Evaluation],
    num_shown: int,
    training_images: Sequence[Image.Image] = (),
) -> Image.Image:
    """Write rows of pictures of the same prompts as one grid, and return it.

    Args:
        path: The file.
        rows: Label -> pictures of the row; at least one row.
        num_shown: Number of pictures in a row, from the first.
        training_images: The last row, if there are any.
    """
    longest = max((item.prompts for item in rows.values()), key=len)[:num_shown]
    pictures = {label: item.images[:num_shown] for label, item in rows.items()}
    if training_images:
        pictures["training"] = list(training_images[: len(longest)])
    labels = [prompt.text or f"seed {prompt.seed}" for prompt in longest]
    picture = grid(list(pictures.values()), list(pictures), labels)
    with atomic_path(path) as temporary:
        picture.save(temporary)
    return picture


def write_prompts(folder: Path, rows: Iterable[Sequence[Prompt]]) -> None:
    """Write ``prompts.json``: prompt and seed of each picture in the folders beside it.

    Args:
        folder: Where it is written.
        rows: Prompts of each picture folder; a file name in several folders is listed once.
    """
    listed = {
        picture_name(index, prompt.text): {"text": prompt.text, "seed": prompt.seed}
        for prompts in rows
        for index, prompt in enumerate(prompts)
    }
    entries = [{"file": name, **prompt} for name, prompt in listed.items()]
    write_json(folder / PROMPTS, entries)


def write_pictures(folder: Path, evaluation: Evaluation) -> None:
    """Write pictures into a folder, named by index and a hash of their prompts."""
    for index, (prompt, image) in enumerate(
        zip(evaluation.prompts, evaluation.images, strict=True)
    ):
        with atomic_path(folder / picture_name(index, prompt.text)) as temporary:
            image.save(temporary)


def write_training(run: Path, images: Sequence[Image.Image]) -> None:
    """Write the first training pictures, which pages show beside the generated ones."""
    for index, image in enumerate(images):
        with atomic_path(run / SAMPLES / TRAINING / f"{index:02d}.png") as temporary:
            image.save(temporary)


def read_prompts(folder: Path) -> dict[str, str]:
    """File -> prompt, from ``prompts.json``; empty without the file.

    Raises:
        ValueError: If the file has another shape.
    """
    path = folder / PROMPTS
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text("utf-8"))
        return {str(each["file"]): str(each["text"]) for each in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: no list of {{file, text}} ({error}); correct or remove it"
        ) from error


def read_samples(run: Path, state: str) -> list[tuple[str, Image.Image]]:
    """Prompts and pictures of one state of the model, if they exist."""
    found = []
    for name, text in read_prompts(run / SAMPLES).items():
        path = run / SAMPLES / state / name
        if path.is_file():
            with Image.open(path) as image:
                found.append((text, image.copy()))
    return found
