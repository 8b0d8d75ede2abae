"""The pictures of a run folder as data URIs for one page: one row a prompt, one column a step."""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

SIDES_PX = (384, 256, 192, 128, 96)
"""Longest sides that are tried, until all pictures fit the page."""

JPEG_QUALITY = 85
MAX_PNG_BYTES = 24 * 1024
"""Drawn and small pictures stay PNG up to this size."""

_MIN_STEPS = 6
_PROBED = 24


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture on the page.

    Attributes:
        step: Optimizer step; None for the base model's.
        uri: The picture itself, ``data:image/...;base64,...``.
        width: In pixels, as embedded.
        height: In pixels, as embedded.
    """

    step: int | None
    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Row:
    """The pictures of one prompt and seed, the base's first, then by step."""

    text: str
    seed: int | None
    pictures: tuple[Shown, ...]


@dataclass(slots=True)
class Gallery:
    """All rows, and what was left out or could not be read, in words."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """The steps that any row has a picture of, rising."""
        pictures = (picture for row in self.rows for picture in row.pictures)
        return sorted({picture.step for picture in pictures if picture.step is not None})


@dataclass(frozen=True, slots=True)
class _Plan:
    side: int
    folders: list[tuple[int | None, Path]]
    files: list[str]

    def paths(self) -> list[Path]:
        found = (folder / file for file in self.files for _, folder in self.folders)
        return [path for path in found if path.is_file()]


def read_gallery(samples: Path, last_step: int | None, max_bytes: int) -> Gallery:
    """Read ``samples/base``, ``samples/step_.../`` and ``samples/last`` of a run folder.

    Pictures are reduced until all fit: smaller ones first, then fewer steps, then fewer prompts,
    each said in the notes. A file that cannot be read is left out and named.

    Args:
        samples: The folder.
        last_step: What ``last`` was drawn at; where None, one after the last step folder.
        max_bytes: For all data URIs together.
    """
    gallery = Gallery()
    prompts = _prompts(samples, gallery.notes)
    plan = _Plan(SIDES_PX[0], _folders(samples, last_step), list(prompts))
    while plan.paths():
        if _estimate(plan) <= max_bytes:
            notes: list[str] = []
            rows = [_row(plan, file, prompts[file], notes) for file in plan.files]
            if sum(len(picture.uri) for row in rows for picture in row.pictures) <= max_bytes:
                gallery.rows = [row for row in rows if row.pictures]
                gallery.notes += _left_out(plan, len(_folders(samples, last_step)), len(prompts))
                gallery.notes += notes
                break
        plan = _smaller(plan)
    else:
        if any((samples / "last").glob("*.png")):
            gallery.notes.append("The pictures do not fit this page; they are in samples/.")
    return gallery


def data_uri(image: Image.Image, quality: int = JPEG_QUALITY) -> str:
    """The picture as PNG where that is small, else as JPEG."""
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


def _prompts(samples: Path, notes: list[str]) -> dict[str, tuple[str, int | None]]:
    """File name -> text and seed; the names of the files where ``prompts.json`` has none."""
    path = samples / "prompts.json"
    listed: Any = []
    if path.is_file():
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            notes.append(f"samples/prompts.json cannot be read ({error}).")
    found = {}
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("file"), str):
            seed = entry.get("seed")
            seed = seed if isinstance(seed, int) else None
            found[Path(entry["file"]).name] = (str(entry.get("text", "")), seed)
    for folder in (samples / "base", samples / "last"):
        for file in sorted(folder.glob("*.png")):
            found.setdefault(file.name, (file.stem, None))
    return found


def _folders(samples: Path, last_step: int | None) -> list[tuple[int | None, Path]]:
    steps: dict[int, Path] = {}
    for folder in sorted(samples.glob("step_*/")):
        number = folder.name.removeprefix("step_")
        if folder.is_dir() and number.isdecimal():
            steps[int(number)] = folder
    last = samples / "last"
    if last.is_dir():
        steps[max(steps, default=0) + 1 if last_step is None else last_step] = last
    return [(None, samples / "base"), *sorted(steps.items())]


def _row(plan: _Plan, file: str, prompt: tuple[str, int | None], notes: list[str]) -> Row:
    pictures = []
    for step, folder in plan.folders:
        path = folder / file
        if not path.is_file():
            continue
        try:
            image = read_picture(path, plan.side, plan.side)
        except OSError as error:
            notes.append(f"samples/{folder.name}/{file} cannot be read ({error}).")
            continue
        pictures.append(Shown(step, data_uri(image), image.width, image.height))
    text, seed = prompt
    return Row(text, seed, tuple(pictures))


def _estimate(plan: _Plan) -> float:
    """Size of all data URIs, from an even choice of them."""
    paths = plan.paths()
    sizes = []
    for path in paths[:: math.ceil(len(paths) / _PROBED)]:
        try:
            sizes.append(len(data_uri(read_picture(path, plan.side, plan.side))))
        except OSError:
            sizes.append(0)
    return sum(sizes) / len(sizes) * len(paths)


def _smaller(plan: _Plan) -> _Plan:
    if plan.side > SIDES_PX[-1]:
        return replace(plan, side=SIDES_PX[SIDES_PX.index(plan.side) + 1])
    if len(plan.folders) > _MIN_STEPS:
        base, *steps = plan.folders
        return replace(plan, folders=[base, *_every_other(steps)])
    return replace(plan, files=plan.files[: len(plan.files) * 3 // 4])


def _every_other(
    steps: Sequence[tuple[int | None, Path]],
) -> Sequence[tuple[int | None, Path]]:
    """Half of them; the last stays."""
    return steps[::-1][::2][::-1]


def _left_out(plan: _Plan, num_folders: int, num_prompts: int) -> list[str]:
    notes = []
    if plan.side < SIDES_PX[0]:
        notes.append(f"Pictures are reduced to {plan.side} pixels, so that all fit this page.")
    if len(plan.folders) < num_folders:
        shown, had = len(plan.folders) - 1, num_folders - 1
        notes.append(f"Pictures of {shown} of {had} steps are shown; all are in samples/.")
    if len(plan.files) < num_prompts:
        notes.append(
            f"The first {len(plan.files)} of {num_prompts} prompts are shown; all are in samples/."
        )
    return notes
