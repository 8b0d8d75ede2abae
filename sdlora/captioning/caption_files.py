"""Caption files of many pictures, each written whole as soon as its caption is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from sdlora.captioning.caption_rules import CaptionRules, appended, shortened
from sdlora.captioning.captioner import Captioner
from sdlora.captioning.folder_pictures import Captionable
from sdlora.captioning.network_loading import CaptionerError
from sdlora.data.captions.caption_text import CaptionError, check_caption_text, read_caption_text
from sdlora.data.pictures.decode import read_picture
from sdlora.data.pictures.picture import Finding
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.runtime.files import write_text
from sdlora.runtime.progress import Progress

KEEP, OVERWRITE, APPEND = "keep", "overwrite", "append"
"""What is done with a caption that is there."""


@dataclass(slots=True)
class Outcome:
    """What became of the pictures.

    Attributes:
        written: Number of caption files that were written.
        unchanged: Number of those that had the text already, or came to be meanwhile.
        shortened: Names of pictures whose captions were too long.
        failed: Pictures without a new caption, with the reason.
    """

    written: int = 0
    unchanged: int = 0
    shortened: list[str] = field(default_factory=list)
    failed: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CaptionWriter:
    """Captions pictures.

    Attributes:
        captioner: Describes them.
        rules: What is done to its texts.
        fits: Whether a caption is short enough for the model that will be trained.
        existing: ``KEEP``, ``OVERWRITE`` or ``APPEND``.
        batch_size: Pictures that are described at once, >= 1.
    """

    captioner: Captioner
    rules: CaptionRules
    fits: Callable[[str], bool]
    existing: str
    batch_size: int

    def write(self, pictures: Sequence[Captionable], progress: Progress) -> Outcome:
        """Caption pictures batch by batch.

        Interrupted, it leaves the files of all batches before, each whole.

        Raises:
            CaptionerError: If a batch does not fit into the GPU's memory.
            WriteError: If a file cannot be written.
        """
        outcome = Outcome()
        bar = progress.add("captions", len(pictures))
        try:
            for start in range(0, len(pictures), self.batch_size):
                chunk = pictures[start : start + self.batch_size]
                self._batch(chunk, outcome)
                progress.update(bar, start + len(chunk), chunk[-1].name)
        except KeyboardInterrupt:
            progress.print(f"interrupted: {outcome.written} captions are written, each whole")
            raise
        finally:
            progress.remove(bar)
        return outcome

    def _batch(self, pictures: Sequence[Captionable], outcome: Outcome) -> None:
        readable, images = [], []
        for each in pictures:
            image = _decoded(each, outcome)
            if image is not None:
                readable.append(each)
                images.append(image)
        if not images:
            return
        try:
            texts = self.captioner.caption(images)
        except torch.OutOfMemoryError as error:
            raise CaptionerError(
                f"--batch-size={self.batch_size}: does not fit into the GPU's memory; take a "
                f"smaller one. {outcome.written} captions are written"
            ) from error
        for picture, raw in zip(readable, texts, strict=True):
            self._one(picture, raw, outcome)

    def _one(self, picture: Captionable, raw: str, outcome: Outcome) -> None:
        try:
            caption = self._caption(picture, self.rules.applied(raw), outcome)
        except (CaptionError, OSError) as error:
            outcome.failed.append(Finding(picture.name, "caption", f"its caption {error}"))
            return
        came_meanwhile = not picture.has_caption and _has_text(picture)
        if caption is None or (came_meanwhile and self.existing == KEEP):
            outcome.unchanged += 1
            return
        write_text(picture.target, caption + "\n")
        outcome.written += 1

    def _caption(self, picture: Captionable, new: str, outcome: Outcome) -> str | None:
        """The whole caption; ``None``: it stands there already."""
        if not new:
            raise CaptionError("is empty: the model says nothing that the rules leave")
        is_tags, old = self.rules.is_tags, None
        whole = new
        if self.existing == APPEND and picture.has_caption:
            old = read_caption_text(picture.target)
            whole = appended(old, new, is_tags=is_tags)
        whole = self.rules.with_trigger(whole)
        if whole == old:
            return None
        short = shortened(whole, self.fits, is_tags=is_tags)
        if short != whole:
            outcome.shortened.append(picture.name)
        return None if short == old else check_caption_text(short)


def _decoded(picture: Captionable, outcome: Outcome) -> Image.Image | None:
    try:
        return read_picture(picture.picture)
    except (PictureError, OSError) as error:
        reason = str(error) if isinstance(error, PictureError) else str(error.strerror or error)
        outcome.failed.append(Finding(picture.name, "unreadable", reason))
        return None


def _has_text(picture: Captionable) -> bool:
    return picture.target.exists() and bool(picture.target.read_bytes().strip())
