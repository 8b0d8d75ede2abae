"""Source of captioned pictures in one or several folders."""

import gc
import itertools
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from sdlora.config.data import RootConfig
from sdlora.data.captions.caption_text import CaptionError, caption_of_name, check_caption_text
from sdlora.data.pictures.decode import WHITE, read_alpha, read_mask, read_picture
from sdlora.data.pictures.picture import WARNING, Finding, Picture
from sdlora.data.pictures.picture_formats import PICTURE_SUFFIXES
from sdlora.data.sources.file_index import FileIndex, FileKey, PictureFacts
from sdlora.data.sources.file_reader import Fault, FileReader
from sdlora.data.sources.kohya_folders import Repeated, layout_of_kohya, repeated_folders
from sdlora.data.sources.other_files import findings_of_others
from sdlora.data.sources.pairing import Candidate, Endings, Pairing
from sdlora.data.sources.picture_source import DataError
from sdlora.data.sources.scan import Folder, FolderScan
from sdlora.runtime.files import sha256
from sdlora.runtime.progress import Progress

_BATCH = 256  # pictures between two writes of the index and two moves of the bar


class FolderSource:
    """Pictures of folders, paired with captions and masks by name.

    The caption of ``a.jpg`` is ``a.txt`` beside it, or its row in a ``metadata.jsonl`` or
    ``metadata.csv`` of its folder or one above, else its root's, else the default. Its mask is
    ``a.mask.png`` or another of the usual names. Both may lie in folders of their own.
    Names are compared Unicode-normalised (NFC; macOS writes accents apart).
    Headers and captions are read, pictures are not decoded; files known to the index are not read
    again. Each file that cannot be used gives a finding; none stops the others.

    Args:
        roots: The folders with their settings; none lies in another.
        caption_endings: Endings of caption files, in any letter case; the first that exists counts.
        default_caption: Caption of pictures without one, ``""`` to train them without words;
            ``None``: they are findings.
        from_name: Whether the name of a picture without a caption is its caption.
        nested: Whether sub-folders are read; hidden ones never are.
        background: Colour under transparent parts, as ``#rrggbb``.
        alpha_is_mask: Whether pictures without a mask file are masked by their transparency.
        index: Facts of earlier runs; used in the constructor only.
        progress: Shows a bar when many files are new.

    Attributes:
        pictures: The usable pictures, by name. With several roots names begin with the root's
            folder name.
        findings: Faults and oddities, by name.
        notes: Remarks on other files, which are not read.

    Raises:
        DataError: If a root is missing, no folder, or lies in another; or if a default caption is
            invalid.
    """

    def __init__(
        self,
        roots: Sequence[RootConfig],
        *,
        caption_endings: Sequence[str] = (".txt", ".caption"),
        default_caption: str | None = None,
        from_name: bool = False,
        nested: bool = True,
        background: str = WHITE,
        alpha_is_mask: bool = False,
        index: FileIndex | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._roots = list(roots)
        self._background = background
        self._alpha_is_mask = alpha_is_mask
        self.pictures: list[Picture] = []
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self._files: list[FileKey] = []
        self._masks: dict[int, tuple[FileKey, str]] = {}  # picture -> mask, its content
        self._repeated: dict[str, Repeated] = {}  # by the prefix of the folder
        folders = _folders(roots)
        for folder in folders if nested else ():
            repeated, notes = repeated_folders(folder.path)
            self._repeated |= {f"{folder.name(name)}/": own for name, own in repeated.items()}
            self.notes += notes
        given = [_shared_caption(root, default_caption) for root in roots]
        endings = Endings(caption_endings)

        def text_of(folder: Folder, stem: str) -> str | None:
            text, repeated = given[folder.root], self._repeated_of(folder)
            if text is None and from_name:
                return caption_of_name(stem)
            return repeated.text if text is None and repeated is not None else text

        scan = FolderScan(folders, endings.classify, nested=nested)
        with _collector_paused():
            candidates = self._paired(scan, Pairing(endings, text_of, scan.is_read))
            with FileReader(index, progress, len(candidates)) as reader:
                for start in range(0, len(candidates), _BATCH):
                    self._add(candidates[start : start + _BATCH], reader)
                    reader.say(min(start + _BATCH, len(candidates)))
        self.findings.sort(key=lambda finding: (finding.name, finding.kind, finding.reason))

    def image(self, index: int) -> Image.Image:
        """Picture ``index``, mode ``RGB``, upright.

        Raises:
            PictureError: If it cannot be decoded.
            DataError: If the file is gone or has changed since the start.
        """
        path = _unchanged(self._files[index], self.pictures[index].content)
        return read_picture(path, self._background)

    def mask(self, index: int) -> Image.Image | None:
        """Where picture ``index`` is trained: mode ``L``, of its size, 255 fully, 0 not.

        Raises:
            PictureError: If it cannot be decoded.
            DataError: If the file is gone or has changed since the start.
        """
        if index in self._masks:
            return read_mask(_unchanged(*self._masks[index]))
        if self.pictures[index].has_mask:
            return read_alpha(_unchanged(self._files[index], self.pictures[index].content))
        return None

    def _repeated_of(self, folder: Folder) -> Repeated | None:
        """What the name of the folder says, or that of the one in the root that it lies in."""
        if not self._repeated:
            return None
        ends = (place for place, letter in enumerate(folder.prefix, start=1) if letter == "/")
        return next(filter(None, (self._repeated.get(folder.prefix[:end]) for end in ends)), None)

    def _paired(self, scan: FolderScan, pairing: Pairing) -> list[Candidate]:
        """All pictures by name; no file is opened."""
        candidates = list(pairing.candidates(list(scan.listings())))
        candidates.sort(key=lambda candidate: candidate.name)
        self.findings += scan.findings + pairing.findings + pairing.unclaimed()
        if scan.others:
            stems = {os.path.splitext(candidate.name)[0] for candidate in candidates}
            self.findings += findings_of_others(scan.others, stems)
        self.notes += scan.notes() + pairing.notes()
        filled = {candidate.folder.root for candidate in candidates}
        self.notes += [
            f"no picture in {root.path}: looked for {', '.join(PICTURE_SUFFIXES)} (any letter case)"
            for number, root in enumerate(self._roots)
            if number not in filled
        ]
        return candidates

    def _add(self, batch: Sequence[Candidate], reader: FileReader) -> None:
        """Read the files of some pictures, and add those without faults."""
        pictures = [candidate.picture for candidate in batch]
        masks = [candidate.mask for candidate in batch if candidate.mask]
        facts = reader.pictures(pictures + masks)
        texts = reader.captions([each.caption for each in batch if each.caption])
        for candidate in batch:
            caption = candidate.caption and texts[candidate.caption.path]
            mask = candidate.mask and facts[candidate.mask.path]
            self._take(candidate, facts[candidate.picture.path], caption, mask)

    def _take(
        self,
        candidate: Candidate,
        facts: PictureFacts | Fault,
        caption: str | Fault | None,
        mask: PictureFacts | Fault | None,
    ) -> None:
        text = candidate.text if caption is None else caption
        if isinstance(facts, Fault) or isinstance(text, Fault) or mask is not None:
            faults = _faults(candidate, facts, caption, mask)
            self.findings += faults
            if faults:
                return
        if not candidate.is_sound:
            return
        assert isinstance(facts, PictureFacts)
        assert isinstance(text, str)
        root, repeated = self._roots[candidate.folder.root], self._repeated_of(candidate.folder)
        masked_by = facts.content if self._alpha_is_mask and facts.has_alpha else ""
        if isinstance(mask, PictureFacts):
            masked_by = mask.content
        picture = Picture(
            name=candidate.name,
            size=(facts.width, facts.height),
            text=text,
            content=facts.content,
            repeats=root.repeats * (1 if repeated is None else repeated.repeats),
            prefix=root.prefix,
            mask_content=masked_by,
            file_bytes=candidate.picture.num_bytes,
        )
        self.pictures.append(picture)
        if candidate.mask is not None and isinstance(mask, PictureFacts):
            self._masks[len(self._files)] = candidate.mask, mask.content
        self._files.append(candidate.picture)
        if facts.is_animated:
            reason = "is animated; only its first frame is trained on"
            self.findings.append(Finding(picture.name, "animated", reason, WARNING))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector while many objects without cycles are made.

    Collecting takes a fifth of the time that a large known folder needs.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _faults(
    candidate: Candidate,
    facts: PictureFacts | Fault,
    caption: str | Fault | None,
    mask: PictureFacts | Fault | None,
) -> list[Finding]:
    """Findings of the files of one picture, each by the file's own name."""
    found = []
    for entry, own in (
        (candidate.picture, facts),
        (candidate.caption, caption),
        (candidate.mask, mask),
    ):
        if entry is not None and isinstance(own, Fault):
            found.append(Finding(candidate.folder.name_of(entry), *own))
    if candidate.mask and isinstance(facts, PictureFacts) and isinstance(mask, PictureFacts):
        size, mask_size = ((own.width, own.height) for own in (facts, mask))
        if size != mask_size:
            wide, high = mask_size
            reason = f"is {wide}x{high} pixels, its picture {size[0]}x{size[1]}; make them equal"
            found.append(Finding(candidate.folder.name_of(candidate.mask), "mask_size", reason))
    return found


def _unchanged(file: FileKey, content: str) -> Path:
    """The path of a file, if its content is that of the start."""
    try:
        now = os.stat(file.path)
        is_same = (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == file[1:]
        # touched, linked or given other rights: only the bytes matter
        is_same = is_same or (now.st_size == file.num_bytes and sha256(file.path) == content)
    except OSError as error:
        raise DataError(
            f"{file.path}: could be read at the start, but now: {error.strerror or error}"
        ) from error
    if not is_same:
        raise DataError(f"{file.path}: was changed since the run read it; start the run again")
    return Path(file.path)


def _shared_caption(root: RootConfig, default: str | None) -> str | None:
    """Caption of the root's pictures without one of their own."""
    text = default if root.class_caption is None else root.class_caption
    if not text or not text.strip():
        return text and ""
    try:
        return check_caption_text(text)
    except CaptionError as error:
        raise DataError(f"data.root={root.path}: the caption {text!r} {error}") from error


def _folders(roots: Sequence[RootConfig]) -> list[Folder]:
    """The roots, with the prefixes of their file names; DataError if one lies in another."""
    seen: dict[Path, str] = {}
    labels: list[str] = []
    for root in roots:
        path = Path(root.path)
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise DataError(f"data.root={root.path}: {what}; give the folder of the pictures")
        if (asked := layout_of_kohya(root.path)) is not None:
            raise DataError(f"data.root={root.path}: is laid out for kohya's trainer; set {asked}")
        real = path.resolve()
        for other in seen:
            if real.is_relative_to(other) or other.is_relative_to(real):
                raise DataError(
                    f"data.roots: {root.path} and {seen[other]} are one folder, or one lies "
                    "in the other; keep one of them"
                )
        seen[real] = root.path
        name = unicodedata.normalize("NFC", real.name) or "root"
        numbers = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        labels.append(next(label for label in numbers if label not in labels))
    prefixes = [f"{label}/" for label in labels] if len(labels) > 1 else [""]
    paths = [os.path.abspath(root.path) for root in roots]
    return [
        Folder(path, prefix, number, is_root=True)
        for number, (path, prefix) in enumerate(zip(paths, prefixes, strict=True))
    ]
