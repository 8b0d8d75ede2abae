"""Pairs of a generated picture and the training picture nearest to it, for one page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlora.reports.score_tables import State
from sdlora.reports.thumbnails import Thumbnail, Thumbnails
from sdlora.runs.nearest import NEAREST, read_nearest
from sdlora.runs.partial_files import inside, is_number
from sdlora.runs.report import handed_over

MAX_PAIRS = 8

_SIDE_PX = 256


@dataclass(frozen=True, slots=True)
class Pair:
    """A generated picture and the training picture nearest to it.

    Attributes:
        generated: The generated picture.
        training: The training picture.
        prompt: Prompt of the generated one.
        name: File name of the training picture.
        similarity: Their cosine, at most 1.
    """

    generated: Thumbnail
    training: Thumbnail
    prompt: str
    name: str
    similarity: float


def read_pairs(run: Path, notes: list[str], thumbnails: Thumbnails | None = None) -> list[Pair]:
    """Read ``nearest.json`` of a run folder, in its order; empty without the file.

    Args:
        run: The folder; paths in the file are relative to it and must stay inside.
        notes: Gets what cannot be read.
        thumbnails: Those of the page's last writing.
    """
    entries, made = read_nearest(run, notes)[:MAX_PAIRS], thumbnails or Thumbnails()
    return [pair for entry in entries if (pair := _pair(run, entry, notes, made))]


@dataclass(frozen=True, slots=True)
class Copying:
    """The result of the copy check, in a sentence, and whether any picture is a copy."""

    sentence: str
    is_found: bool


def copying(states: Sequence[State]) -> Copying | None:
    """The result for what a run hands over, else the last state; None if it was not measured."""
    drawn = {state.name: state for state in states if not state.is_real}
    if not drawn:
        return None
    last = drawn[handed_over(drawn) or list(drawn)[-1]]
    largest = last.values.get("largest_training_similarity")
    yardstick = last.values.get("copying_yardstick")
    share = last.values.get("copying")
    if largest is None or yardstick is None:
        return None
    sentence = (
        f"The generated picture nearest to a training picture ({last.name}) has a similarity of "
        f"{largest:.3f} to it; the two most similar training pictures have {yardstick:.3f}. A copy "
        "is less than half as far from a training picture as those two are from each other"
    )
    if share is None:
        return Copying(f"{sentence}.", False)
    count = round(last.values.get("num_pictures", 0))
    if share <= 0:
        return Copying(f"{sentence}: none of the {count} pictures is one.", False)
    return Copying(f"{sentence}: {share:.0%} of the {count} pictures are copies.", True)


def _pair(
    run: Path, entry: dict[str, Any], notes: list[str], thumbnails: Thumbnails
) -> Pair | None:
    similarity = entry.get("similarity")
    if not is_number(similarity):
        return None
    generated = _picture(run, entry.get("picture"), notes, thumbnails)
    training = _picture(run, entry.get("training"), notes, thumbnails)
    if generated is None or training is None:
        return None
    prompt, name = (str(entry.get(key, "")) for key in ("prompt", "name"))
    return Pair(generated, training, prompt, name, similarity)


def _picture(run: Path, name: Any, notes: list[str], thumbnails: Thumbnails) -> Thumbnail | None:
    path = inside(run, name)
    if path is None:
        notes.append(f"{NEAREST}: {name!r} does not lie in this folder.")
        return None
    try:
        return thumbnails.of(path, _SIDE_PX, _SIDE_PX)
    except OSError as error:
        notes.append(f"{name} cannot be read ({error}).")
        return None
