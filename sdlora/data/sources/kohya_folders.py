"""Folders named as kohya's trainer reads them: ``10_ohwx woman`` is ten repeats and a caption."""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from sdlora.data.pictures.picture import quoted
from sdlora.data.pictures.picture_formats import PICTURE_SUFFIXES
from sdlora.data.sources.folder_names import (
    CAPTION_FOLDERS,
    MASK_FOLDERS,
    is_held_out,
    is_hidden,
    is_own_output,
    is_system,
)

_NAME = re.compile(r"(\d+)_(.*\S)", re.DOTALL)
_PLAIN_NUMBER = re.compile(r"[1-9]\d{0,2}")
_PICTURES_FOLDER, _CLASS_FOLDER = "img", "reg"
_FEWEST_IN_A_ROW = 3


class Repeated(NamedTuple):
    """What a folder's name says.

    Attributes:
        repeats: How often an epoch shows its pictures.
        text: Caption of its pictures without one.
    """

    repeats: int
    text: str


def repeated_folders(root: str) -> tuple[dict[str, Repeated], list[str]]:
    """The folders directly in a root that say repeats and a caption, and notes on them.

    They do if all folders with pictures are named so, no picture lies beside them, and the numbers
    can only be repeats: no years, no leading zeros, no numbering from 1 of three or more.
    """
    names, has_pictures = _listed(root)
    found = {name: _NAME.fullmatch(name) for name in names}
    named = {name: (match[1], match[2]) for name, match in found.items() if match}
    if not named:
        return {}, []
    if reason := _doubt(list(names), [number for number, _ in named.values()], has_pictures):
        name, (number, text) = next(iter(named.items()))
        path = os.path.join(root, name)
        return {}, [
            f"the number in names such as {quoted(name)} is not taken for repeats, since {reason}; "
            f"if it is, set data.root=null \"data.roots=[{{path: '{path}', repeats: {int(number)}, "
            f"class_caption: '{text}'}}]\", with one such entry for each folder"
        ]
    repeated = {name: Repeated(int(number), text) for name, (number, text) in named.items()}
    return repeated, [_note(name, each) for name, each in repeated.items()]


def layout_of_kohya(root: str) -> str | None:
    """What to set instead of a root that holds ``img/10_name`` and perhaps ``reg/1_name``.

    Returns:
        The overrides; ``None`` if it is no such folder.
    """
    pictures, classes = (os.path.join(root, name) for name in (_PICTURES_FOLDER, _CLASS_FOLDER))
    if not os.path.isdir(pictures) or not repeated_folders(pictures)[0]:
        return None
    asked = f"data.root='{pictures}'"
    if os.path.isdir(classes):
        asked += f" data.prior.mode=class data.prior.root='{classes}' data.class_word=WORD"
    return asked


def _listed(root: str) -> tuple[list[str], bool]:
    """Names of the folders of pictures directly in a root, and whether pictures lie in it.

    Both are empty where no folder is named with a number, as in nearly every root.
    """
    try:
        with os.scandir(root) as found:
            entries = list(found)
    except OSError:  # the walk says so
        return [], False
    folders = [entry for entry in entries if _is_folder(entry)]
    if not any(_NAME.fullmatch(folder.name) for folder in folders):
        return [], False
    names = sorted(folder.name for folder in folders if _holds_pictures(folder))
    files = {entry.name for entry in entries} - {folder.name for folder in folders}
    suffixes = {os.path.splitext(name)[1].casefold() for name in files if not is_hidden(name)}
    return names, not suffixes.isdisjoint(PICTURE_SUFFIXES)


def _holds_pictures(folder: os.DirEntry[str]) -> bool:
    """Whether a folder is no companion, held out, hidden, or of a run."""
    name = folder.name
    has_own_meaning = is_hidden(name) or is_system(name) or is_held_out(name)
    is_companion = name.casefold() in MASK_FOLDERS | CAPTION_FOLDERS
    return not (has_own_meaning or is_companion or is_own_output(folder.path))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _doubt(names: Sequence[str], numbers: Sequence[str], has_pictures: bool) -> str | None:
    """Why the numbers may mean something else."""
    if has_pictures:
        return "pictures lie beside these folders"
    if len(numbers) < len(names):
        return "other folders have none"
    if not all(_PLAIN_NUMBER.fullmatch(number) for number in numbers):
        return "it may be a date or a place in an order"
    in_a_row = sorted(map(int, numbers)) == list(range(1, len(numbers) + 1))
    if in_a_row and len(numbers) >= _FEWEST_IN_A_ROW:
        return f"the folders are numbered from 1 to {len(numbers)}"
    return None


def _note(name: str, each: Repeated) -> str:
    trigger, _, word = each.text.partition(" ")
    advice = f"; data.trigger_word={trigger} data.class_word='{word}' name it to prompts and scores"
    return (
        f"folder {quoted(name)}: {each.repeats} repeats by its name, and {each.text!r} is the "
        f"caption of its pictures without one{advice if word else ''}"
    )
