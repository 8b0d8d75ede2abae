"""What a source knows of a picture without decoding it, and findings of files."""

from collections.abc import Sequence
from dataclasses import dataclass

_SHOWN_NAMES = 5


@dataclass(frozen=True, slots=True)
class Picture:
    """One captioned picture of a source.

    Attributes:
        name: Unique in the run: the path below its root, Unicode-normalised (NFC), ``/`` between
            folders.
        size: Width and height in pixels, upright (after the EXIF orientation).
        text: The caption as written, perhaps of several lines; ``""`` trains without one.
        content: Hex SHA-256 of the picture file's bytes, or of what a picture is drawn from.
        repeats: How often an epoch shows it, >= 1.
        prefix: Put in front of every caption of its root, such as a trigger word.
        loss_weight: Factor on its loss, > 0; below 1 for class pictures (prior preservation).
        mask_content: Hex SHA-256 of the file with its loss mask; ``""``: no mask.
        file_bytes: Size of its file; 0 where there is none.
    """

    name: str
    size: tuple[int, int]
    text: str
    content: str
    repeats: int = 1
    prefix: str = ""
    loss_weight: float = 1.0
    mask_content: str = ""
    file_bytes: int = 0

    @property
    def has_mask(self) -> bool:
        """Whether it has a loss mask."""
        return bool(self.mask_content)


ERROR, REMOVED, WARNING = "error", "removed", "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault or oddity of a file.

    Attributes:
        name: The file, below its root.
        kind: A short word for counting: ``unreadable``, ``no_caption``, ``too_small``, ...
        reason: What is wrong and the remedy, in one line.
        severity: ``error`` (cannot be trained on: stops the run, or is left out with
            ``data.on_error=skip``), ``removed`` (by a filter that the config asks for) or
            ``warning`` (is trained on, and worth a look).
    """

    name: str
    kind: str
    reason: str
    severity: str = ERROR

    def __str__(self) -> str:
        return f"{quoted(self.name)}: {self.reason}"


def quoted(name: str) -> str:
    """A file name for a message, escaped if it holds line breaks and the like."""
    return name if name.isprintable() else repr(name)


def listed(names: Sequence[str]) -> str:
    """File names for a note: the first ones."""
    return ", ".join(map(quoted, names[:_SHOWN_NAMES])) + ", ..." * (len(names) > _SHOWN_NAMES)
