"""Source of captioned pictures in the rows of a Hugging Face data set."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import Image

from sdlora.data.pictures.decode import WHITE, read_alpha, read_picture
from sdlora.data.pictures.picture import Finding, Picture, quoted
from sdlora.data.pictures.picture_formats import PICTURE_SUFFIXES, PictureError
from sdlora.data.sources.hub_rows import open_rows
from sdlora.data.sources.hub_set import HubSet
from sdlora.data.sources.picture_source import DataError
from sdlora.runtime.progress import Progress


class HubSource:
    """The rows of a Hugging Face data set, read by their numbers from memory-mapped files.

    Every row is read once at the start, for its size, content and faults; pictures are decoded on
    demand.

    Args:
        hub_set: The data set, its split and columns.
        progress: Shows a bar while rows are read.
        background: Colour under transparent parts, as ``#rrggbb``.
        alpha_is_mask: Whether pictures are masked by their transparency.

    Attributes:
        pictures: Rows that can be trained on, named ``row 0``, ``row 1``, ...
        findings: Faults and oddities.
        notes: Columns and files that are not read.

    Raises:
        DataError: If the set cannot be loaded or has no such columns.
    """

    def __init__(
        self,
        hub_set: HubSet,
        progress: Progress | None = None,
        *,
        background: str = WHITE,
        alpha_is_mask: bool = False,
    ) -> None:
        self._rows = open_rows(hub_set)
        self._background = background
        self._alpha_is_mask = alpha_is_mask
        self._numbers: list[int] = []  # of the rows that can be trained on
        self.pictures: list[Picture] = []
        self.findings: list[Finding] = []
        files = self._read(progress or Progress(enabled=False))
        self.notes = [*_unread_columns(self._rows.unread), *_unread_files(hub_set, files)]

    def image(self, index: int) -> Image.Image:
        """Picture ``index``, mode ``RGB``, upright.

        Raises:
            PictureError: If it cannot be decoded.
            DataError: If its file is gone or has changed since the start.
        """
        return read_picture(self._file(index), self._background)

    def mask(self, index: int) -> Image.Image | None:
        """Loss mask of picture ``index`` from its transparency, if alpha is a mask."""
        return read_alpha(self._file(index)) if self.pictures[index].has_mask else None

    def _read(self, progress: Progress) -> set[str]:
        """Read every row, and return the files that rows name."""
        files = set()
        rows = self._rows.each(self._rows.rows)
        for number, row in enumerate(progress.track(rows, "reading rows", len(self._rows.rows))):
            found = self._rows.read(row, f"row {number}")
            self.findings += found.findings
            if found.picture is not None:
                masked_by = found.picture.content if self._alpha_is_mask and found.has_alpha else ""
                self.pictures.append(replace(found.picture, mask_content=masked_by))
                self._numbers.append(number)
            if path := self._rows.path(row):
                files.add(path)
        return files

    def _file(self, index: int) -> BytesIO:
        """The file of a picture, if its content is that of the start."""
        picture = self.pictures[index]
        try:
            data = self._rows.picture_bytes(self._rows.rows[self._numbers[index]])
        except PictureError as error:
            raise DataError(
                f"{picture.name}: could be read at the start, but now {error}"
            ) from error
        if hashlib.sha256(data).hexdigest() != picture.content:
            raise DataError(f"{picture.name}: was changed since the run read it; start it again")
        return BytesIO(data)


def _unread_columns(names: Sequence[str]) -> list[str]:
    return [f"columns that are not read: {', '.join(map(quoted, names))}"] if names else []


def _unread_files(hub_set: HubSet, files: set[str]) -> list[str]:
    """Note of pictures below a local folder that no row names."""
    folder = hub_set.folder
    if folder is None or not any(Path(file).is_relative_to(folder) for file in files):
        return []
    lying = (
        path for path in sorted(folder.rglob("*")) if path.suffix.casefold() in PICTURE_SUFFIXES
    )
    lost = [quoted(path.relative_to(folder).as_posix()) for path in lying if str(path) not in files]
    shown = ", ".join(lost[:5]) + (", ..." if lost[5:] else "")
    what = f"pictures that no row of split {hub_set.config.split} names"
    return [f"{len(lost)} {what}: {shown}"] if lost else []
