"""Numbers and pictures a person looks at: grids, the score table, metrics.jsonl, report.json."""

import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from sdlora import files
from sdlora.metrics.scoring import Scores

MIN_CELL_PX = 128
MARGIN_PX = 4
FONT_PX = 13
MAX_LABEL_LINES = 6
EXTRA_SCORES = {"image_similarity": "alike ↑", "diversity": "varied ↑", "copying": "copying ↓"}
"""Score -> header of its column, which is shown where some row has the score."""


def grid(
    rows: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
) -> Image.Image:
    """Lay pictures out in a labelled table.

    Small pictures are enlarged by a whole factor, pixel by pixel, to at least 128 pixels; larger
    ones keep their size. Pictures smaller than their cell stand in its centre.

    Args:
        rows: One picture a column; None and the end of a shorter row leave cells empty.
        row_labels: One a row, at the left.
        column_labels: One a column, above, wrapped to its width and cut after 6 lines.

    Raises:
        ValueError: If a row is too long, a row label is missing, or there is no picture.
    """
    if not any(image for row in rows for image in row):
        raise ValueError("rows: no picture to show.")
    if len(row_labels) != len(rows) or max(len(row) for row in rows) > len(column_labels):
        raise ValueError(
            f"grid: {len(rows)} rows of {[len(row) for row in rows]} pictures do not fit "
            f"{len(row_labels)} row labels and {len(column_labels)} column labels."
        )
    cells = [[None if image is None else _enlarged(image) for image in row] for row in rows]
    shown = [image for row in cells for image in row if image is not None]
    width = max(image.width for image in shown)
    height = max(image.height for image in shown)
    font = ImageFont.load_default(size=FONT_PX)
    headers = [_wrapped(label, width, font) for label in column_labels]
    top = _text_height(headers, font) + 2 * MARGIN_PX
    left = max(math.ceil(font.getlength(label)) for label in row_labels) + 2 * MARGIN_PX
    size = (left + len(headers) * (width + MARGIN_PX), top + len(cells) * (height + MARGIN_PX))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, header in enumerate(headers):
        draw.text((left + column * (width + MARGIN_PX), MARGIN_PX), header, "black", font)
    for index, (label, row) in enumerate(zip(row_labels, cells, strict=True)):
        y = top + index * (height + MARGIN_PX)
        draw.text((MARGIN_PX, y + height // 2), label, "black", font, anchor="lm")
        for column, image in enumerate(row):
            if image is not None:
                x = left + column * (width + MARGIN_PX)
                sheet.paste(
                    image, (x + (width - image.width) // 2, y + (height - image.height) // 2)
                )
    return sheet


def _enlarged(image: Image.Image) -> Image.Image:
    factor = math.ceil(MIN_CELL_PX / max(image.size))
    size = (image.width * factor, image.height * factor)
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST)


def _wrapped(text: str, width: int, font: Any) -> str:
    characters = max(int(width / font.getlength("n")), 4)
    lines = textwrap.wrap(text, characters, max_lines=MAX_LABEL_LINES, placeholder=" ...")
    return "\n".join(lines)


def _text_height(texts: Sequence[str], font: Any) -> int:
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    return math.ceil(max(draw.multiline_textbbox((0, 0), text, font)[3] for text in texts))


def gap_closed(base: float | None, now: float | None, floor: float | None) -> float | None:
    """Share of the way from the base's face distance to the real pictures' that was made.

    Args:
        base: Face distance of the base model's pictures.
        now: Face distance with the adapter.
        floor: Face distance of real pictures of the person: what cannot be beaten honestly.

    Returns:
        ``(base - now) / (base - floor)``: 0 at the base, 1 at the floor, negative when worse than
        the base; None if a number is missing or the base is not above the floor.
    """
    if base is None or now is None or floor is None or base <= floor:
        return None
    return (base - now) / (base - floor)


def score_table(
    rows: Mapping[str, Scores], *, floor: Scores | None = None, title: str = "Scores"
) -> Table:
    """A table of scores for the terminal; the first row is what the others are compared with.

    ``±`` is half the width of the 95 % interval of a mean over the pictures.

    Args:
        rows: Name -> scores, e.g. ``{"base": ..., "LoRA": ...}``, the base first.
        floor: Scores of real pictures of the person; adds their row and the gap closed.
        title: Above the table.

    Returns:
        A table; below it, why a score is missing.

    Raises:
        ValueError: If there is no row.
    """
    if not rows:
        raise ValueError("rows: no scores to show.")
    base = next(iter(rows.values()))
    table = Table(title=title)
    table.add_column("")
    for header in ("pictures", "face distance ↓", "faceless ↓", "CLIP score ↑"):
        table.add_column(header, justify="right")
    shown = dict(rows) if floor is None else {**rows, "real pictures": floor}
    extra = [n for n in EXTRA_SCORES if any(getattr(s, n) is not None for s in shown.values())]
    table.padding = (0, 0) if extra else (0, 1)  # all numbers whole in 80 columns
    for name in extra:
        table.add_column(EXTRA_SCORES[name], justify="right")
    if floor is not None:
        table.add_column("gap closed ↑", justify="right")
    for name, scores in shown.items():
        cells = [
            str(scores.num_pictures),
            _cell("face_distance", scores, base, 3),
            _cell("faceless", scores, base, 0),
            _cell("clip_score", scores, base, 2),
            *(_cell(score, scores, None, 3) for score in extra),
        ]
        if floor is not None:
            closed = gap_closed(base.face_distance, scores.face_distance, floor.face_distance)
            cells.append("-" if scores is base or closed is None else f"{closed:.0%}")
        table.add_row(name, *cells)
    notes = [
        f"{name}: no {score} ({reason})"
        for name, scores in shown.items()
        for score, reason in scores.reasons.items()
        if score in extra or score not in EXTRA_SCORES
    ]
    table.caption = "\n".join(notes) or None
    return table


def _cell(name: str, scores: Scores, base: Scores | None, digits: int) -> str:
    value, of_base = getattr(scores, name), getattr(base, name, None)
    if value is None:
        return "none"
    text = f"{value:.{digits}f}"
    low, high = scores.intervals.get(name, (value, value))
    if low < high:
        text += f" ± {(high - low) / 2:.{digits}f}"
    return (
        text if of_base is None or value == of_base else f"{text} ({value - of_base:+.{digits}f})"
    )


def append_metrics(
    path: Path | str,
    step: int,
    values: Mapping[str, float | str | None],
    reasons: Mapping[str, str] | None = None,
) -> None:
    """Add one JSON line to ``metrics.jsonl`` and sync it to the disk.

    A last line that a killed process left cut is removed first.

    Args:
        path: The file; made if missing.
        step: The optimizer step the numbers belong to.
        values: Name -> number or text; NaN, infinite and None become null.
        reasons: Name -> why it is None; NaN and infinity give their own.

    Raises:
        ValueError: If a name is ``step`` or ``reasons``, which the line uses itself.
    """
    if taken := {"step", "reasons"} & set(values):
        raise ValueError(f"metric name {taken.pop()!r} is taken by the line itself; rename it.")
    line: dict[str, Any] = {"step": step}
    why = {name: reason for name, reason in (reasons or {}).items() if values.get(name) is None}
    for name, value in values.items():
        line[name] = value if isinstance(value, str) else _finite(value)
        if value is not None and line[name] is None:
            why[name] = f"the value is {float(value)}"
    if why:
        line["reasons"] = why
    data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _drop_cut_line(file)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _drop_cut_line(file: Any) -> None:
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    file.truncate(whole)
    file.seek(0, os.SEEK_END)


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; a last line that a killed process left cut is passed over.

    Args:
        path: The file; a missing one has no lines.

    Returns:
        One mapping a line, with ``step``.

    Raises:
        ValueError: If another line is no JSON object; it gives the line's number.
    """
    path = Path(path)
    if not path.exists():
        return []
    *whole, _cut = path.read_bytes().split(b"\n")
    lines = []
    for number, raw in enumerate(whole, start=1):
        try:
            line = json.loads(raw)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error}); remove it.") from error
        if not isinstance(line, dict):
            raise ValueError(f"{path}, line {number}: no JSON object; remove it.")
        lines.append(line)
    return lines


def forget_metrics_after(path: Path | str, step: int) -> None:
    """Drop the lines of steps that a resumed run will make again (those above ``step``)."""
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in kept)
    if Path(path).exists():
        files.write_text(path, text)


def write_report_json(
    path: Path | str,
    scores: Mapping[str, Scores],
    *,
    settings: Mapping[str, Any],
    floor: Scores | None = None,
) -> None:
    """Write everything that was measured, whole or not at all.

    Args:
        path: The file.
        scores: Name -> scores, the base first.
        settings: What the pictures were made with; plain JSON values and paths.
        floor: Scores of real pictures of the person.
    """
    base = next(iter(scores.values())).face_distance if scores else None
    limit = None if floor is None else floor.face_distance
    files.write_json(
        path,
        {
            "settings": _plain(settings),
            "scores": {name: _plain(row) for name, row in scores.items()},
            "real_pictures": None if floor is None else _plain(floor),
            "gap_closed": {
                name: gap_closed(base, row.face_distance, limit) for name, row in scores.items()
            },
        },
    )


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    return _finite(value) if isinstance(value, float) else value


def _finite(value: Any) -> Any:
    if value is None:
        return None
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None
