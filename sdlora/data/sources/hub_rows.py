"""Rows of a Hugging Face data set, and their conversion to pictures."""

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from sdlora.data.captions.caption_text import CaptionError, check_caption_text
from sdlora.data.pictures.decode import read_header
from sdlora.data.pictures.picture import WARNING, Finding, Picture, quoted
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.sources.hub_set import HubSet, datasets_package
from sdlora.data.sources.picture_source import DataError

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "description", "sentence", "txt")

MAX_PICTURE_BYTES = 1 << 30
"""Largest picture file; an archive's member that unpacks to more is not read to its end."""

_ROWS_AT_A_TIME = 16
_ROWS_COUNTED_AT_A_TIME = 1000


class RowReading(NamedTuple):
    """The picture of a row, or why it cannot be used.

    Attributes:
        picture: ``None`` if the row cannot be used.
        data: The bytes of its file.
        findings: Faults and oddities of the row.
        has_alpha: Whether parts of it may be transparent.
    """

    picture: Picture | None
    data: bytes
    findings: list[Finding]
    has_alpha: bool = False


@dataclass(frozen=True, slots=True)
class HubRows:
    """Rows of a data set with their picture and caption columns.

    Attributes:
        hub_set: The data set.
        rows: ``datasets.Dataset`` or ``IterableDataset``; pictures are undecoded files.
        image: Column of the pictures.
        caption: Column of the captions; ``None`` if every row has the default caption.
        unread: The other columns.
        folder: Base of relative paths; ``None`` if there are none.
    """

    hub_set: HubSet
    rows: Any
    image: str
    caption: str | None
    unread: tuple[str, ...]
    folder: Path | None

    def count(self) -> int:
        """Number of rows: as the set says, else counted without reading pictures."""
        splits = self.rows.info.splits or {}
        if self.hub_set.config.split in splits and splits[self.hub_set.config.split].num_examples:
            return int(splits[self.hub_set.config.split].num_examples)
        try:
            tables = self.rows.with_format("arrow").iter(batch_size=_ROWS_COUNTED_AT_A_TIME)
            return sum(len(table) for table in tables)
        except Exception as error:  # as below
            raise self.hub_set.error(error) from error

    def each(self, rows: Any) -> Iterator[dict[str, Any]]:
        """These rows one by one; raises ``DataError`` where reading fails.

        By batches, since row by row ``datasets`` would give each DataLoader worker other rows.
        """
        batches = rows.iter(batch_size=_ROWS_AT_A_TIME)
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:  # of files, of pyarrow, of the network
                raise self.hub_set.error(error) from error
            if batch is None:
                return
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))

    def read(self, row: Mapping[str, Any], name: str) -> RowReading:
        """A row's undecoded picture, and the findings of the row."""
        findings: list[Finding] = []
        data, text, header = b"", "", None
        try:
            data = self.picture_bytes(row)
            header = read_header(BytesIO(data))
        except PictureError as error:
            findings.append(Finding(name, "unreadable", str(error)))
        try:
            text = self._text(row)
        except CaptionError as error:
            kind = "bad_caption" if self._written(row) else "no_caption"
            findings.append(Finding(name, kind, str(error)))
        if findings or header is None:
            return RowReading(None, data, findings)
        if header.is_animated:
            reason = "is animated; only its first frame is trained on"
            findings.append(Finding(name, "animated", reason, WARNING))
        content = hashlib.sha256(data).hexdigest()
        picture = Picture(name, header.size, text, content, file_bytes=len(data))
        return RowReading(picture, data, findings, header.has_alpha)

    def picture_bytes(self, row: Mapping[str, Any]) -> bytes:
        """The file of a row's picture.

        Raises:
            PictureError: If there is none, or none that can be read.
            DataError: If the set cannot be reached.
        """
        if data := (row[self.image] or {}).get("bytes"):
            return bytes(data)
        if not (path := self.path(row)):
            raise PictureError("holds no picture; fill the cell or remove the row")
        try:
            return _file_bytes(path, self.folder)
        except PictureError:
            raise
        except Exception as error:  # of the disk or the network: no fault of the row
            raise self.hub_set.error(error) from error

    def path(self, row: Mapping[str, Any]) -> str:
        """The file that a row names, or ``""``."""
        return (row[self.image] or {}).get("path") or ""

    def _text(self, row: Mapping[str, Any]) -> str:
        text = self._written(row) or self.hub_set.default_caption
        if text is None:
            raise CaptionError("has no caption; fill the cell or set data.captions.default")
        return check_caption_text(text) if text.strip() else ""

    def _written(self, row: Mapping[str, Any]) -> str:
        value = row[self.caption] if self.caption is not None else None
        text = value if isinstance(value, str) else "\n".join(line or "" for line in value or ())
        return text.strip()


def open_rows(hub_set: HubSet, streaming: bool = False) -> HubRows:
    """Load a set and choose its columns.

    Raises:
        DataError: If it cannot be loaded, or a column is missing, ambiguous or of the wrong type;
            names all columns.
    """
    rows = hub_set.load(streaming)
    if rows.features is None:
        raise DataError(
            f"data.root={hub_set.path}: its files do not name their columns; convert the set to "
            "parquet, or set data.hub.streaming=false"
        )
    kinds = {column: _kind(feature) for column, feature in rows.features.items()}
    image = _image_column(kinds, hub_set)
    texts = ("text", "list of text")
    caption = _column(
        kinds, "caption_column", hub_set.config.caption_column, CAPTION_COLUMNS, texts
    )
    if caption is None and hub_set.default_caption is None:
        raise DataError(
            f"data.hub.caption_column: none of {_listing(kinds)} has a customary name; name one, "
            "or set data.captions.default"
        )
    read = [image] if caption is None else [image, caption]
    try:
        files = datasets_package().Image(decode=False)
        narrowed = rows.with_format(None).select_columns(read).cast_column(image, files)
    except Exception as error:  # whatever pyarrow makes of odd types
        raise hub_set.error(error) from error
    unread = tuple(column for column in kinds if column not in read)
    return HubRows(hub_set, narrowed, image, caption, unread, hub_set.folder)


def _image_column(kinds: Mapping[str, str], hub_set: HubSet) -> str:
    # a text is the name of a file; a set from elsewhere has no say in which of ours are read
    accepted = ("pictures", "text") if hub_set.folder else ("pictures",)
    column = _column(kinds, "image_column", hub_set.config.image_column, IMAGE_COLUMNS, accepted)
    if column is not None:
        return column
    typed = [name for name, kind in kinds.items() if kind == "pictures"]
    if len(typed) != 1:
        raise DataError(
            f"data.hub.image_column: {len(typed)} columns could be it; name one of "
            f"{_listing(kinds)} (a folder of pictures with caption files is data=folder)"
        )
    return typed[0]


def _column(
    kinds: Mapping[str, str],
    key: str,
    configured: str | None,
    customary: Sequence[str],
    accepted: Sequence[str],
) -> str | None:
    if configured is not None:
        if kinds.get(configured) not in accepted:
            what = (
                f"holds {kinds[configured]}, not {accepted[0]}"
                if configured in kinds
                else "is not there"
            )
            raise DataError(
                f"data.hub.{key}={configured}: {what}; the columns are {_listing(kinds)}"
            )
        return configured
    named = [name for name in kinds if name.casefold() in customary and kinds[name] in accepted]
    if len(named) > 1:
        raise DataError(
            f"data.hub.{key}: {', '.join(named)} could be it; name one of {_listing(kinds)}"
        )
    return named[0] if named else None


def _kind(feature: Any) -> str:
    """Type of a column, in words."""
    dtype = getattr(feature, "dtype", None)
    if type(feature).__name__ == "Image" or dtype in ("binary", "large_binary"):
        return "pictures"
    if isinstance(feature, dict):
        return "pictures" if feature.keys() <= {"bytes", "path"} else "records"
    if dtype in ("string", "large_string"):
        return "text"
    if type(feature).__name__ in ("List", "LargeList"):
        return f"list of {_kind(feature.feature)}"
    return str(dtype or type(feature).__name__)


def _listing(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{quoted(name)} ({kind})" for name, kind in kinds.items())


def _file_bytes(path: str, folder: Path | None) -> bytes:
    """A file that a row names: on this machine, on the Hub, or in a zip archive on either."""
    archive_member, _, container = path.rpartition("::")
    on_hub = container.startswith("hf://")
    if ("://" in container and not on_hub) or not re.match(r"(zip://[^:]*)?$", archive_member):
        raise PictureError(f"names the address {path}, which is not fetched; store the pictures")
    target = (folder or Path()) / container
    missing = PictureError(
        f"names the file {quoted(path.removeprefix(f'{folder}/'))}, which cannot be read; "
        "add it or remove the row"
    )
    if not on_hub and not ((folder or _is_downloaded(target)) and target.is_file()):
        raise missing
    try:
        if archive_member or on_hub:
            import fsspec

            with fsspec.open(path, "rb") as member:
                data = member.read(MAX_PICTURE_BYTES + 1)
        else:
            with target.open("rb") as file:
                data = file.read(MAX_PICTURE_BYTES + 1)
    except (FileNotFoundError, PermissionError, KeyError, zipfile.BadZipFile) as error:
        raise missing from error
    if len(data) > MAX_PICTURE_BYTES:
        raise PictureError(f"is a file of more than {MAX_PICTURE_BYTES} bytes; reduce it")
    return data


def _is_downloaded(path: Path) -> bool:
    """Whether a file belongs to a set from the Hub, which may name no other local files."""
    from huggingface_hub import constants

    stores = (constants.HF_HUB_CACHE, datasets_package().config.HF_DATASETS_CACHE)
    lying = Path(os.path.normpath(path))
    return any(lying.is_relative_to(Path(store).expanduser().absolute()) for store in stores)
