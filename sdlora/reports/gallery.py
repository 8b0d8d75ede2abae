"""The gallery of a page: pictures as data URIs, a row for each prompt, a column for each state."""

import base64
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from sdlora.reports.columns import Column
from sdlora.reports.score_tables import PictureScores, picture_scores
from sdlora.runs.samples import PROMPTS

SIDES_PX = (384, 256, 192, 128, 96)
"""Longest sides to try, until all pictures fit the page."""

JPEG_QUALITY = 85
MAX_PNG_BYTES = 24 * 1024
"""Largest PNG; larger ones become JPEG."""

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

    def paths(self) -> list[Path]:
        found = (column.folder / file for file in self.files for column in self.columns)
        return [path for path in found if path.is_file()]

    def encoded(self, path: Path) -> str:
        return data_uri(read_picture(path, self.side, self.side))


def read_gallery(
    run: Path,
    columns: Sequence[Column],
    max_bytes: int,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
) -> Gallery:
    """Read the pictures of all columns; ``prompts.json`` beside their folders names the rows.

    Pictures are reduced until all fit: smaller ones first, then fewer columns, then fewer prompts,
    as the notes say. A file that cannot be read is left out and named.

    Args:
        run: The folder of the page.
        columns: Columns to read; those without pictures are left out.
        max_bytes: Size of all data URIs together.
        scores: Label of a column -> its scores of single pictures.
    """
    gallery = Gallery()
    prompts = read_prompts(run, columns, gallery.notes)
    columns = [column for column in columns if any((column.folder / n).is_file() for n in prompts)]
    whole = plan = _Plan(SIDES_PX[0], list(columns), list(prompts))
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


def data_uri(image: Image.Image, quality: int = JPEG_QUALITY) -> str:
    """The picture as PNG if that is small, else as JPEG."""
    buffer = io.BytesIO()
    kind = "png"
    if image.width * image.height <= SIDES_PX[-2] ** 2:
        image.save(buffer, "PNG", optimize=True)
    if not 0 < buffer.tell() <= MAX_PNG_BYTES:
        kind, buffer = "jpeg", io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def read_picture(path: Path, max_width: int, max_height: int) -> Image.Image:
    """Read a picture as RGB and reduce it to fit, keeping its shape.

    Raises:
        OSError: If it cannot be read.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f"{path.name}: {error}") from error
    image.thumbnail((max_width, max_height), Image.Resampling.LANCZOS)
    return image


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
            image = read_picture(path, plan.side, plan.side)
        except OSError as error:
            notes.append(f"{_name(run, path)} cannot be read ({error}).")
            continue
        numbers = picture_scores(scores.get(column.label, {}), prompt.index, prompt.text)
        pictures.append(Shown(column, data_uri(image), image.width, image.height, numbers))
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
