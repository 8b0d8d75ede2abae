"""The protocol of picture sources, and sources made of others."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from PIL import Image

from sdlora.data.captions.trigger_word import has_word
from sdlora.data.pictures.picture import Finding, Picture
from sdlora.data.pictures.picture_formats import PictureError


class DataError(ValueError):
    """Data that cannot be trained on; the message lists every finding with its remedy."""


class PictureSource(Protocol):
    """A source of captioned pictures, by index."""

    @property
    def pictures(self) -> Sequence[Picture]:
        """The usable pictures, in a fixed order."""

    @property
    def findings(self) -> Sequence[Finding]:
        """Faults and oddities of files."""

    @property
    def notes(self) -> Sequence[str]:
        """Remarks on other files, which are not read and are no fault."""

    def image(self, index: int) -> Image.Image:
        """Picture ``index``, mode ``RGB``, upright; ``PictureError`` if it cannot be decoded."""

    def mask(self, index: int) -> Image.Image | None:
        """Loss mask of picture ``index``: mode ``L``, of its size, 255 full weight, 0 none."""


def fingerprint(pictures: Sequence[Picture]) -> str:
    """Hex SHA-256 over all pictures, captions, repeats and weights."""
    digest = hashlib.sha256()
    for picture in pictures:
        own = (str(picture.repeats), str(picture.loss_weight), picture.mask_content)
        digest.update(record(picture.name, picture.text, picture.content, picture.prefix, *own))
    return digest.hexdigest()


def readable(source: PictureSource, limit: int | None) -> list[tuple[Picture, Image.Image]]:
    """The readable ones of the first ``limit`` pictures (None: of all).

    For comparisons only: training reports unreadable pictures, and stops or skips them as the
    config says.
    """
    found = []
    for number, picture in enumerate(source.pictures[:limit]):
        try:
            found.append((picture, source.image(number)))
        except (PictureError, DataError, OSError):
            continue
    return found


class Selection:
    """Some of a source's pictures.

    Args:
        source: The whole source.
        indices: The chosen pictures, in order.
        findings: Findings of the others, added to the source's own.
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
        """Loss mask of picture ``index`` of the selection."""
        return self._source.mask(self._indices[index])


class WithTriggerWord:
    """A source whose captions all have the trigger word.

    Args:
        source: The user's pictures.
        trigger_word: Put in front of captions that do not have it, as a picture's prefix.
        others: Texts that stand in every caption anyway, such as a prefix of all.
    """

    def __init__(self, source: PictureSource, trigger_word: str, others: Sequence[str]) -> None:
        self._source = source
        self.pictures = [
            picture
            if any(has_word(text, trigger_word) for text in (picture.text, picture.prefix, *others))
            else replace(picture, prefix=f"{trigger_word}, {picture.prefix}")
            for picture in source.pictures
        ]
        self.findings = source.findings
        self.notes = source.notes

    def image(self, index: int) -> Image.Image:
        """Picture ``index``, mode ``RGB``, upright."""
        return self._source.image(index)

    def mask(self, index: int) -> Image.Image | None:
        """Loss mask of picture ``index``."""
        return self._source.mask(index)


CLASS_PICTURES = "class pictures/"
"""Prefix of the names of class pictures."""


class WithClassPictures:
    """A source together with the class pictures of prior preservation.

    An epoch shows about as many class pictures as others, as DreamBooth does: the smaller set is
    repeated as often as it fits into the larger one.

    Args:
        own: The user's pictures.
        others: The class pictures.
        weight: Loss weight of class pictures, > 0.

    Attributes:
        times: Repeats of ``own`` and of ``others`` in an epoch, for a message.
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
        """Loss mask of picture ``index``."""
        source, place = self._find(index)
        return source.mask(place)

    def _find(self, index: int) -> tuple[PictureSource, int]:
        num_own = len(self._sources[0].pictures)
        return self._sources[index >= num_own], index - num_own * (index >= num_own)


def record(*fields: str) -> bytes:
    """An injective encoding of fields as bytes, for hashing."""
    encoded = [field.encode("utf-8", "surrogateescape") for field in fields]
    return b"".join(len(field).to_bytes(8, "big") + field for field in encoded)
