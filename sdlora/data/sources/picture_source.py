"""Where captioned pictures come from: what every source offers, and portraits drawn on demand."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from PIL import Image

from sdlora.data.pictures.decode import PictureError
from sdlora.data.pictures.picture import Finding, Picture


class DataError(ValueError):
    """Data that cannot be trained on; the message lists every finding with its remedy."""


class PictureSource(Protocol):
    """Captioned pictures, by index."""

    @property
    def pictures(self) -> Sequence[Picture]:
        """What can be trained on, in a fixed order."""

    @property
    def findings(self) -> Sequence[Finding]:
        """What cannot be used, and what can but wants attention."""

    @property
    def notes(self) -> Sequence[str]:
        """What else lies there, is not read, and is no fault."""

    def image(self, index: int) -> Image.Image:
        """Picture ``index``, mode ``RGB``, upright; ``PictureError`` if it cannot be decoded."""

    def mask(self, index: int) -> Image.Image | None:
        """Where picture ``index`` is trained: mode ``L``, of its size, 255 fully, 0 not."""


def fingerprint(pictures: Sequence[Picture]) -> str:
    """Hex SHA-256 that changes when any picture, caption, repeat or weight does."""
    digest = hashlib.sha256()
    for picture in pictures:
        own = (str(picture.repeats), str(picture.loss_weight), picture.mask_content)
        digest.update(record(picture.name, picture.text, picture.content, picture.prefix, *own))
    return digest.hexdigest()


def readable(source: PictureSource, limit: int | None) -> list[tuple[Picture, Image.Image]]:
    """Of the first ``limit`` pictures (None: of all) those that can be read.

    For comparisons only: where pictures are encoded for training, one that cannot be read is named,
    and stops the run or not, as the config says.
    """
    found = []
    for number, picture in enumerate(source.pictures[:limit]):
        try:
            found.append((picture, source.image(number)))
        except (PictureError, DataError, OSError):
            continue
    return found


class Selection:
    """Some of a source's pictures; the others are as if they were not there.

    Args:
        source: The whole.
        indices: Which of its pictures, in the order wanted.
        findings: Why the others are left out, added to the source's own.
    """

    def __init__(
        self, source: PictureSource, indices: Sequence[int], findings: Sequence[Finding] = ()
    ) -> None:
        self._source = source
        self._indices = list(indices)
        self.pictures = [source.pictures[index] for index in self._indices]
        self.findings = [*source.findings, *findings]
        self.notes = source.notes

    def image(self, index: int) -> Image.Image:
        """Picture ``index`` of the selection, mode ``RGB``, upright."""
        return self._source.image(self._indices[index])

    def mask(self, index: int) -> Image.Image | None:
        """Where picture ``index`` of the selection is trained."""
        return self._source.mask(self._indices[index])


CLASS_PICTURES = "class pictures/"
"""Names of class pictures begin so."""


class WithClassPictures:
    """A source and, for prior preservation, class pictures that train along.

    An epoch shows about as many class pictures as others, as DreamBooth does: the smaller set is
    repeated as often as it fits into the larger one.

    Args:
        own: The pictures that training is for.
        others: The class pictures.
        weight: Factor on the loss of class pictures, > 0.

    Attributes:
        times: How often ``own`` and ``others`` are shown in an epoch, for a message.
    """

    def __init__(self, own: PictureSource, others: PictureSource, weight: float) -> None:
        self._sources = (own, others)
        num_own, num_others = (
            sum(picture.repeats for picture in source.pictures) for source in self._sources
        )
        most = max(num_own, num_others, 1)
        self.times = (max(1, most // max(num_own, 1)), max(1, most // max(num_others, 1)))
        self.pictures = [
            replace(picture, repeats=picture.repeats * self.times[0]) for picture in own.pictures
        ] + [
            replace(
                picture,
                name=CLASS_PICTURES + picture.name,
                repeats=picture.repeats * self.times[1],
                loss_weight=picture.loss_weight * weight,
            )
            for picture in others.pictures
        ]
        self.findings = [*own.findings, *others.findings]
        self.notes = [*own.notes, *others.notes]

    def image(self, index: int) -> Image.Image:
        """Picture ``index``, mode ``RGB``, upright."""
        source, place = self._find(index)
        return source.image(place)

    def mask(self, index: int) -> Image.Image | None:
        """Where picture ``index`` is trained."""
        source, place = self._find(index)
        return source.mask(place)

    def _find(self, index: int) -> tuple[PictureSource, int]:
        num_own = len(self._sources[0].pictures)
        return self._sources[index >= num_own], index - num_own * (index >= num_own)


def record(*fields: str) -> bytes:
    """Bytes that no other list of fields gives, whatever the fields hold."""
    encoded = [field.encode("utf-8", "surrogateescape") for field in fields]
    return b"".join(len(field).to_bytes(8, "big") + field for field in encoded)
