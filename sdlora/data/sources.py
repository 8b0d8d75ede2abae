"""Where captioned pictures come from: a folder of files, or portraits drawn on demand."""

import hashlib
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from PIL import Image

from sdlora.data.captions import CaptionError, Sample, quoted, read_caption
from sdlora.data.pictures import PICTURE_SUFFIXES, PictureError, read_picture
from sdlora.world.portraits import caption, portrait, random_scene

ON_ERROR = ("raise", "skip")


class DataError(ValueError):
    """Data that cannot be trained on; the message lists every finding with its remedy."""


class PictureSource(Protocol):
    """Captioned pictures, by index."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Names and captions, in a fixed order."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """What could not be used: one line each with name, reason and remedy."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not read and no fault."""

    def image(self, index: int) -> Image.Image:
        """Picture ``index``, mode ``RGB``, upright."""

    def fingerprint(self) -> str:
        """Hex SHA-256 that changes when any picture or caption does."""


class FolderSource:
    """Pictures of a folder, each with a caption file of the same name.

    ``a.jpg`` belongs to ``a.txt``: names are compared without ending and Unicode-normalised (NFC;
    macOS writes accents apart), never by position. Every picture is decoded once at the start, so
    that all findings are known before the first step.

    Args:
        root: The folder; sub-folders are not read.
        caption_suffix: Ending of the caption files, in any letter case.
        on_error: ``"raise"`` stops with all findings at once; ``"skip"`` lists them in
            ``left_out`` and goes on with the rest.
        min_side_px: Smallest accepted width and height.

    Attributes:
        samples: What can be used, sorted by name.
        left_out: One line for each finding: file, reason, remedy. Empty unless ``"skip"``.
        notes: What else is in the folder and not read; no fault.

    Raises:
        DataError: If the folder is missing or holds nothing usable, or, with ``"raise"``, for any
            finding.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        caption_suffix: str = ".txt",
        on_error: str = "raise",
        min_side_px: int = 32,
    ) -> None:
        if on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={on_error!r}: must be one of {', '.join(ON_ERROR)}")
        self._root = Path(root)
        entries = _entries(self._root)
        findings: list[str] = []
        suffix = caption_suffix.casefold()
        pictures = _by_stem((p for p in entries if _suffix(p) in PICTURE_SUFFIXES), findings)
        captions = _by_stem((p for p in entries if _suffix(p) == suffix), findings)
        self.notes = _notes(entries, suffix)
        self._paths: list[Path] = []
        samples: list[Sample] = []
        for path, text in _pairs(pictures, captions, caption_suffix, min_side_px, findings):
            self._paths.append(path)
            samples.append(Sample(unicodedata.normalize("NFC", path.name), text))
        self.samples: tuple[Sample, ...] = tuple(samples)
        self.left_out: tuple[str, ...] = tuple(sorted(findings))
        self._settle(on_error, caption_suffix)

    def image(self, index: int) -> Image.Image:
        """Picture ``index``, mode ``RGB``, upright; DataError if it has changed for the worse."""
        path = self._paths[index]
        try:
            return read_picture(path)
        except (PictureError, OSError) as error:
            raise DataError(f"{path}: could be read at the start, but now: {error}") from error

    def fingerprint(self) -> str:
        """Hex SHA-256 over the names, captions and file bytes."""
        digest = hashlib.sha256()
        for path, sample in zip(self._paths, self.samples, strict=True):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(_record(sample.name, sample.caption, content))
        return digest.hexdigest()

    def _settle(self, on_error: str, caption_suffix: str) -> None:
        listing = "".join(f"\n  {line}" for line in self.left_out)
        if self.left_out and on_error == "raise":
            raise DataError(
                f"data.root={self._root}: {len(self.left_out)} finding(s):{listing}\n"
                "Mend them, or set data.on_error=skip to leave these files out."
            )
        if not self.samples:
            raise DataError(
                f"data.root={self._root}: no usable picture; looked for "
                f"{', '.join(PICTURE_SUFFIXES)} (any letter case), each with a caption file "
                f"of the same name ending in {caption_suffix}{listing}"
                + "".join(f"\n  note: {line}" for line in self.notes)
            )


class PortraitSource:
    """Portraits of the drawn world, each drawn whenever it is asked for; captions cost nothing.

    Args:
        num_pictures: How many.
        first_seed: The portraits' seeds are ``first_seed``, ``first_seed + 1``, ...
        identity_seed: One person in many scenes; ``None`` for a new person in each.
        size: Side in pixels.
    """

    def __init__(
        self,
        num_pictures: int,
        first_seed: int = 0,
        identity_seed: int | None = None,
        size: int = 64,
    ) -> None:
        if num_pictures < 1:
            raise ValueError(f"data.num_pictures={num_pictures}: must be at least 1")
        self._seeds = range(first_seed, first_seed + num_pictures)
        self._identity_seed = identity_seed
        self._size = size
        self.samples: tuple[Sample, ...] = tuple(
            Sample(f"portrait-{seed:07d}", caption(random_scene(seed), seed))
            for seed in self._seeds
        )
        self.left_out: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()

    def image(self, index: int) -> Image.Image:
        """Draw portrait ``index``, mode ``RGB``."""
        return portrait(self._seeds[index], self._identity_seed, self._size).image.convert("RGB")

    def fingerprint(self) -> str:
        """Hex SHA-256 over the arguments, all captions and the first drawing's pixels."""
        drawn = hashlib.sha256(self.image(0).tobytes()).hexdigest()
        digest = hashlib.sha256(_record(str(self._identity_seed), str(self._size), drawn))
        for sample in self.samples:
            digest.update(_record(sample.name, sample.caption))
        return digest.hexdigest()


def _record(*fields: str) -> bytes:
    """Bytes that no other list of fields gives, whatever the fields hold."""
    encoded = [field.encode("utf-8", "surrogateescape") for field in fields]
    return b"".join(len(field).to_bytes(8, "big") + field for field in encoded)


def _suffix(path: Path) -> str:
    return path.suffix.casefold()


def _entries(root: Path) -> list[Path]:
    """What lies in the folder, hidden files aside (macOS leaves a ``._a.jpg`` beside ``a.jpg``)."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data.root={root}: {what}; give the folder of the captioned pictures")
    entries = sorted(root.iterdir(), key=lambda path: unicodedata.normalize("NFC", path.name))
    return [path for path in entries if not path.name.startswith(".")]


def _by_stem(paths: Iterable[Path], findings: list[str]) -> dict[str, list[Path]]:
    """Regular files by normalised stem; folders are left to the notes, the rest to findings."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as error:  # a link that leads nowhere or in a circle
            findings.append(f"{quoted(path.name)}: {error.strerror or error}; remove the link")
            mode = stat.S_IFIFO
        else:
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                findings.append(f"{quoted(path.name)}: is not a regular file; remove it")
        if not stat.S_ISDIR(mode):
            groups[unicodedata.normalize("NFC", path.stem)].append(path)
    return groups


def _pairs(
    pictures: dict[str, list[Path]],
    captions: dict[str, list[Path]],
    caption_suffix: str,
    min_side_px: int,
    findings: list[str],
) -> list[tuple[Path, str]]:
    """Pictures with their caption texts; whatever stands in the way goes to ``findings``."""
    findings += _doubles(pictures, "pictures") + _doubles(captions, "captions")
    for stem in captions.keys() - pictures.keys():
        findings += [
            f"{quoted(path.name)}: caption without a picture; add the picture or remove it"
            for path in captions[stem]
        ]
    for stem in pictures.keys() - captions.keys():
        findings += [
            f"{quoted(path.name)}: no caption file {quoted(stem + caption_suffix)}; write it"
            for path in pictures[stem]
        ]
    sound = _sound_pictures(pictures, min_side_px, findings)
    texts = _texts(captions, findings)
    return [
        (paths[0], texts[stem])
        for stem, paths in pictures.items()
        if len(paths) == 1 and paths[0] in sound and stem in texts
    ]


def _doubles(groups: dict[str, list[Path]], kind: str) -> list[str]:
    return [
        f"{', '.join(quoted(path.name) for path in paths)}: {len(paths)} {kind} of one name; "
        "keep one of them"
        for paths in groups.values()
        if len(paths) > 1
    ]


def _sound_pictures(
    pictures: dict[str, list[Path]], min_side_px: int, findings: list[str]
) -> set[Path]:
    usable = [path for paths in pictures.values() for path in paths if path.is_file()]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        faults = list(pool.map(lambda path: _picture_fault(path, min_side_px), usable))
    findings += [fault for fault in faults if fault]
    return {path for path, fault in zip(usable, faults, strict=True) if not fault}


def _picture_fault(path: Path, min_side_px: int) -> str:
    try:
        read_picture(path, min_side_px)
    except PictureError as error:
        return f"{quoted(path.name)}: {error}"
    except OSError as error:
        return f"{quoted(path.name)}: {error.strerror or error}; check the file"
    return ""


def _texts(captions: dict[str, list[Path]], findings: list[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for stem, paths in captions.items():
        for path in paths:
            if not path.is_file():
                continue
            try:
                text = read_caption(path)
            except CaptionError as error:
                findings.append(f"{quoted(path.name)}: {error}")
            except OSError as error:
                findings.append(f"{quoted(path.name)}: {error.strerror or error}; check the file")
            else:
                if len(paths) == 1:
                    texts[stem] = text
    return texts


def _notes(entries: Sequence[Path], caption_suffix: str) -> tuple[str, ...]:
    notes = []
    for folder in (path for path in entries if path.is_dir()):
        names = (name for _, _, files in os.walk(folder) for name in files)
        count = sum(_suffix(Path(name)) in PICTURE_SUFFIXES for name in names)
        if count:
            notes.append(f"sub-folder {quoted(folder.name)} is not read ({count} pictures)")
    known = (*PICTURE_SUFFIXES, caption_suffix)
    others = [p.name for p in entries if not p.is_dir() and _suffix(p) not in known]
    if others:
        shown = ", ".join(quoted(name) for name in others[:5]) + (", ..." if others[5:] else "")
        notes.append(f"{len(others)} files of other kinds are not read: {shown}")
    return tuple(notes)
