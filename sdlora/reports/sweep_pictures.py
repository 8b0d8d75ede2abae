"""The pictures of all cells of a sweep as WebP thumbnails for one page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from sdlora.reports.columns import step_columns
from sdlora.reports.gallery import estimated_bytes, read_prompts
from sdlora.reports.thumbnails import read_picture
from sdlora.runs.samples import SAMPLES
from sdlora.sweep.cells import Cell, Sweep

MAX_BYTES = 20 * 1024 * 1024
MAX_PICTURES = 2400
"""A page is written after every cell: 2,000 pictures of 512 pixels take about half a minute."""

SIDES_PX = (256, 192, 128, 96)
FEW_STEPS = 3
"""Number of pictures that is never reduced."""
WEBP_QUALITY = 85
EXACT_PX = 128
"""Pictures up to this side are lossless while all fit: lossy WebP blurs their colours."""

Key = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One picture on the page.

    Attributes:
        step: Its step.
        uri: The picture as a data URI.
        file: The whole picture, relative to the sweep's folder.
    """

    step: int
    uri: str
    file: str


@dataclass(slots=True)
class Thumbnails:
    """The pictures of a page.

    Attributes:
        prompts: (text, seed) of each.
        steps: Steps with pictures, besides each cell's last step.
        cells: Number of a cell -> index of a prompt -> pictures, by step.
        base: Index of a prompt -> the base's picture.
        side_px: Longest side, as embedded.
        notes: Pictures that were left out or cannot be read.
    """

    prompts: list[Key] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    cells: dict[int, dict[int, list[Thumbnail]]] = field(default_factory=dict)
    base: dict[int, Thumbnail] = field(default_factory=dict)
    side_px: int = SIDES_PX[0]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Found:
    """A picture file; ``cell`` is None for the base's."""

    cell: int | None
    prompt: Key
    step: int
    is_last: bool
    path: Path


@dataclass(frozen=True, slots=True)
class _Plan:
    side: int
    steps: Sequence[int]
    prompts: Sequence[Key]
    found: Sequence[_Found]
    is_exact: bool = True

    def chosen(self) -> list[_Found]:
        steps, prompts = set(self.steps), set(self.prompts)
        return [
            each
            for each in self.found
            if each.prompt in prompts and (each.cell is None or each.is_last or each.step in steps)
        ]

    def encoded(self, path: Path) -> str:
        image = read_picture(path, self.side, self.side)
        return webp_uri(image, is_lossless=self.is_exact and max(image.size) <= EXACT_PX)


def read_thumbnails(sweep: Sweep, max_bytes: int = MAX_BYTES) -> Thumbnails:
    """The pictures of ``samples/`` in every cell: previews, the last step, the base.

    Pictures are reduced until all fit: lossy, then smaller, then fewer steps, then fewer prompts,
        as
    the notes say. All cells draw the same base, so the first cell with a picture gives it.

    Args:
        sweep: The sweep.
        max_bytes: Size of all pictures together.
    """
    notes: list[str] = []
    found = [each for cell in sweep.cells for each in _found(sweep.folder, cell, notes)]
    found = _with_one_base(found)
    prompts = list(dict.fromkeys(each.prompt for each in found))
    steps = sorted({each.step for each in found if each.cell is not None})
    whole = plan = _Plan(SIDES_PX[0], steps, prompts, found)
    while chosen := plan.chosen():
        fits = len(chosen) <= MAX_PICTURES
        if fits and estimated_bytes([each.path for each in chosen], plan.encoded) <= max_bytes:
            unread: list[str] = []
            shown = _encoded(sweep, plan, chosen, unread)
            if _bytes(shown) <= max_bytes:
                shown.notes = _left_out(plan, whole) + notes + unread
                return shown
        plan = _smaller(plan)
    return Thumbnails(notes=notes)


def webp_uri(image: Image.Image, is_lossless: bool) -> str:
    """The picture as WebP."""
    buffer = io.BytesIO()
    if is_lossless:
        image.save(buffer, "WEBP", lossless=True, method=0, quality=30)  # as fast as lossy
    else:
        image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _found(sweep: Path, cell: Cell, notes: list[str]) -> list[_Found]:
    columns = step_columns(cell.folder / SAMPLES, cell.last_step)
    unread: list[str] = []
    prompts = read_prompts(cell.folder, columns, unread)
    notes += [f"{cell.folder.relative_to(sweep).as_posix()}: {note}" for note in unread]
    return [
        _Found(
            cell=None if column.is_base else cell.number,
            prompt=(prompt.text, prompt.seed),
            step=column.step or 0,
            is_last=column is columns[-1],
            path=column.folder / file,
        )
        for column in columns
        for file, prompt in prompts.items()
        if (column.folder / file).is_file()
    ]


def _with_one_base(found: Sequence[_Found]) -> list[_Found]:
    """The pictures with only one base picture for each prompt."""
    seen: set[Key] = set()
    kept = []
    for each in found:
        if each.cell is None:
            if each.prompt in seen:
                continue
            seen.add(each.prompt)
        kept.append(each)
    return kept


def _encoded(sweep: Sweep, plan: _Plan, chosen: Sequence[_Found], notes: list[str]) -> Thumbnails:
    shown = Thumbnails(prompts=list(plan.prompts), steps=list(plan.steps), side_px=plan.side)
    numbers = {prompt: index for index, prompt in enumerate(plan.prompts)}
    for each in chosen:
        file = each.path.relative_to(sweep.folder).as_posix()
        try:
            thumbnail = Thumbnail(each.step, plan.encoded(each.path), file)
        except OSError as error:
            notes.append(f"{file} cannot be read ({error}).")
            continue
        prompt = numbers[each.prompt]
        if each.cell is None:
            shown.base[prompt] = thumbnail
        else:
            shown.cells.setdefault(each.cell, {}).setdefault(prompt, []).append(thumbnail)
    return shown


def _bytes(shown: Thumbnails) -> int:
    rows = [row for cell in shown.cells.values() for row in cell.values()]
    return sum(len(each.uri) for row in [*rows, shown.base.values()] for each in row)


def _smaller(plan: _Plan) -> _Plan:
    is_many = len(plan.chosen()) > MAX_PICTURES  # smaller ones would not help
    if plan.is_exact and not is_many:
        return replace(plan, is_exact=False)
    if plan.side > SIDES_PX[-2] and not is_many:
        return replace(plan, side=SIDES_PX[SIDES_PX.index(plan.side) + 1])
    if len(plan.steps) > FEW_STEPS:
        return replace(plan, steps=plan.steps[::-1][::2][::-1])  # half; the last stays
    if len(plan.prompts) > 1:
        return replace(plan, prompts=plan.prompts[: len(plan.prompts) * 3 // 4])
    side = next((side for side in SIDES_PX if side < plan.side), None)
    return replace(plan, prompts=[]) if side is None else replace(plan, side=side)


def _left_out(plan: _Plan, whole: _Plan) -> list[str]:
    """Notes on how this page's pictures differ from those in the folders."""
    parts = []
    if len(plan.steps) < len(whole.steps):
        parts.append(f"{len(plan.steps)} of {len(whole.steps)} steps")
    if len(plan.prompts) < len(whole.prompts):
        parts.append(f"the first {len(plan.prompts)} of {len(whole.prompts)} prompts")
    if not parts:
        return []
    return [f"Pictures of {' and '.join(parts)} are shown; all are in the cells' folders."]
