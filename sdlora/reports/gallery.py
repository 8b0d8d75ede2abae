"""The gallery of a page: pictures as data URIs, a row for each prompt, a column for each state."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdlora.reports.columns import Column
from sdlora.reports.score_tables import PictureScores, picture_scores
from sdlora.reports.thumbnails import Thumbnail, Thumbnails
from sdlora.runs.samples import PROMPTS

SIDES_PX = (384, 256, 192, 128, 96)
"""Longest sides to try, until all pictures fit the page."""

_MIN_COLUMNS = 6
_PROBED = 24


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture on the page.

    Attributes:
        column: Its column.
        uri: The picture as ``data:image/...;base64,...``.
        width: In pixels, as embedded.
        height: In pixels, as embedded.
        scores: Its scores, if any.
    """

    column: Column
    uri: str
    width: int
    height: int
    scores: PictureScores | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """The pictures of one prompt and seed, the base's first, then by column."""

    text: str
    seed: int | None
    pictures: tuple[Shown, ...]


@dataclass(slots=True)
class Gallery:
    """All rows, and notes on pictures that were left out or cannot be read."""

    rows: list[Row] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def compared(self) -> list[str]:
        """The labels of the columns except the base."""
        return [column.label for column in self.columns if not column.is_base]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prompt, seed and index in the scores of a picture, as far as known."""

    text: str
    seed: int | None
    index: int | None


@dataclass(frozen=True, slots=True)
class _Plan:
    side: int
    columns: list[Column]
    files: list[str]
    thumbnails: Thumbnails

    def paths(self) -> list[Path]:
        found = (column.folder / file for file in self.files for column in self.columns)
        return [path for path in found if path.is_file()]

    def encoded(self, path: Path) -> str:
        return self.thumbnail(path).uri

    def thumbnail(self, path: Path) -> Thumbnail:
        return self.thumbnails.of(path, self.side, self.side)


def read_gallery(
    run: Path,
    columns: Sequence[Column],
    max_bytes: int,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
    thumbnails: Thumbnails | None = None,
) -> Gallery:
    """Read the pictures of all columns; ``prompts.json`` beside their folders names the rows.

    Pictures are reduced until all fit: smaller ones first, then fewer columns, then fewer prompts,
    as the notes say. A file that cannot be read is left out and named.

    Args:
        run: The folder of the page.
        columns: Columns to read; those without pictures are left out.
        max_bytes: Size of all data URIs together.
        scores: Label of a column -> its scores of single pictures.
        thumbnails: Those of the page's last writing.
    """
    gallery = Gallery()
    prompts = read_prompts(run, columns, gallery.notes)
    columns = [column for column in columns if any((column.folder / n).is_file() for n in prompts)]
    whole = plan = _Plan(SIDES_PX[0], list(columns), list(prompts), thumbnails or Thumbnails())
    while plan.paths():
        if estimated_bytes(plan.paths(), plan.encoded) <= max_bytes:
            notes: list[str] = []
            rows = [
                _row(run, plan, file, prompts[file], scores or {}, notes) for file in plan.files
            ]
            if sum(len(picture.uri) for row in rows for picture in row.pictures) <= max_bytes:
                gallery.rows = [row for row in rows if row.pictures]
                read = {picture.column.label for row in rows for picture in row.pictures}
                gallery.columns = [column for column in plan.columns if column.label in read]
                gallery.notes += _left_out(plan, whole) + notes
                break
        plan = _smaller(plan)
    else:
        if whole.paths():
            gallery.notes.append("The pictures do not fit this page; they are in their folders.")
    return gallery


def estimated_bytes(paths: Sequence[Path], encoded: Callable[[Path], str]) -> float:
    """Estimated size of all pictures as ``encoded``, from an even sample; unreadable ones count 0.

    Args:
        paths: At least one.
        encoded: Encodes one; may raise ``OSError``.
    """
    sizes = []
    for path in paths[:: math.ceil(len(paths) / _PROBED)]:
        try:
            sizes.append(len(encoded(path)))
        except OSError:
            sizes.append(0)
    return sum(sizes) / len(sizes) * len(paths)


def read_prompts(run: Path, columns: Sequence[Column], notes: list[str]) -> dict[str, Prompt]:
    """Prompts by file name; without an entry in a ``prompts.json`` the name is the text."""
    found: dict[str, Prompt] = {}
    for parent in dict.fromkeys(column.folder.parent for column in columns):
        path = parent / PROMPTS
        listed: Any = []
        if path.is_file():
            try:
                listed = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                notes.append(f"{_name(run, path)} cannot be read ({error}).")
        for index, entry in enumerate(listed if isinstance(listed, list) else []):
            if isinstance(entry, dict) and isinstance(entry.get("file"), str):
                seed = entry.get("seed")
                seed = seed if isinstance(seed, int) else None
                prompt = Prompt(str(entry.get("text", "")), seed, index)
                found.setdefault(Path(entry["file"]).name, prompt)
    for column in columns:
        if column.step is None or column is columns[-1]:  # others show some of the last's
            for file in sorted(column.folder.glob("*.png")):
                found.setdefault(file.name, Prompt(file.stem, None, None))
    return found


def _row(
    run: Path,
    plan: _Plan,
    file: str,
    prompt: Prompt,
    scores: Mapping[str, Mapping[str, Any]],
    notes: list[str],
) -> Row:
    pictures = []
    for column in plan.columns:
        path = column.folder / file
        if not path.is_file():
            continue
        try:
            image = plan.thumbnail(path)
        except OSError as error:
            notes.append(f"{_name(run, path)} cannot be read ({error}).")
            continue
        numbers = picture_scores(scores.get(column.label, {}), prompt.index, prompt.text)
        pictures.append(Shown(column, image.uri, image.width, image.height, numbers))
    return Row(prompt.text, prompt.seed, tuple(pictures))


def _name(run: Path, path: Path) -> str:
    return path.relative_to(run).as_posix()


def _smaller(plan: _Plan) -> _Plan:
    if plan.side > SIDES_PX[-1]:
        return replace(plan, side=SIDES_PX[SIDES_PX.index(plan.side) + 1])
    if len(plan.columns) > _MIN_COLUMNS:
        base = [column for column in plan.columns if column.is_base]
        others = [column for column in plan.columns if not column.is_base]
        return replace(plan, columns=base + others[::-1][::2][::-1])  # half; the last stays
    return replace(plan, files=plan.files[: len(plan.files) * 3 // 4])


def _left_out(plan: _Plan, whole: _Plan) -> list[str]:
    notes = []
    if plan.side < whole.side:
        notes.append(f"Pictures are reduced to {plan.side} pixels, so that all fit this page.")
    shown, had = (sum(not column.is_base for column in p.columns) for p in (plan, whole))
    if shown < had:
        what = "steps" if whole.columns[-1].step is not None else "states"
        notes.append(f"Pictures of {shown} of {had} {what} are shown; all are in their folders.")
    if len(plan.files) < len(whole.files):
        notes.append(
            f"The first {len(plan.files)} of {len(whole.files)} prompts are shown; "
            "all are in their folders."
        )
    return notes
