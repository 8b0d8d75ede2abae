"""Measurements that need a decoded picture: soundness, perceptual hash, sharpness, face."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from PIL import Image

from sdlora.data.pictures.faces import Box, detector_mark, find_face, require_detector
from sdlora.data.pictures.picture import Finding, Picture
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.sources.picture_source import DataError, PictureSource
from sdlora.runtime.progress import Progress

DECODE, PHASH, SHARPNESS = "decode", "phash", "sharpness"
FACE = "face:"
"""Prefix of the kind of a face's box; the detector's name follows."""

SOUND = "ok"
"""Value of kind ``decode`` for a picture that decodes; any other value is the error."""

SHARPNESS_SIDE_PX = 512

_REVISION = "1"  # raise it when a kind is computed in another way: stored values are then not used
_CHUNK = 256
_MAX_THREADS = 8

Facts = Mapping[str, Mapping[str, str]]
"""Kind -> content hash -> value."""


class FactStore(Protocol):
    """A store of values that outlives the run, such as ``FileIndex``."""

    def facts(self, kind: str, contents: Sequence[str]) -> Mapping[str, str]:
        """Content hash -> value, of the known ones."""

    def store_facts(self, kind: str, mapping: Mapping[str, str]) -> None:
        """Keep values by content hash."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Measures a source's pictures, each decoded at most once and only for unknown values.

    Kinds and their values: ``decode`` (:data:`SOUND`, or why it cannot be decoded), ``phash`` (64
    bits, 16 hex digits), ``sharpness`` (see :func:`sharpness`, a number), ``face:DETECTOR``
    (``left top width height``, or ``""`` without a face; see :func:`box`).

    Attributes:
        source: The pictures.
        index: Values of other runs; new ones are stored at once, so that a stopped check continues
            where it was. Faults are not stored: they are few, and a library update may fix them.
        progress: Shows a bar while pictures are decoded.
        rendering: Further settings that decide the pixels, such as the colour under transparent
            parts; part of the key of a stored value, as the files of a face detector are.
    """

    source: PictureSource
    index: FactStore
    progress: Progress
    rendering: str = ""

    def of(self, kinds: Sequence[str], numbers: Sequence[int]) -> Facts:
        """Values of these kinds for the pictures of these numbers.

        Returns:
            Kind -> content hash -> value; ``decode`` is always among the kinds. A picture that
            cannot be decoded has only that value; :func:`unreadable` makes findings of them.

        Raises:
            ValueError: On an unknown kind, or a detector that cannot be used; before any decoding.
        """
        _require_kinds(kinds)
        all_kinds = list(dict.fromkeys([DECODE, *kinds]))
        stored = {kind: f"{kind}/{_REVISION}/{self.rendering}{_tool(kind)}" for kind in all_kinds}
        first = {self.source.pictures[n].content: n for n in sorted(numbers, reverse=True)}
        contents = sorted(first, key=first.__getitem__)  # equal files once, in the source's order
        values = {kind: dict(self.index.facts(stored[kind], contents)) for kind in all_kinds}
        lacking = ([kind for kind in all_kinds if c not in values[kind]] for c in contents)
        work = [_Work(c, first[c], new) for c, new in zip(contents, lacking, strict=True) if new]
        for fresh in _measured(self.source, work, self.progress):
            for kind, new in fresh.items():
                values[kind].update(new)
                sound = {c: v for c, v in new.items() if kind != DECODE or v == SOUND}
                self.index.store_facts(stored[kind], sound)
        return values


def unreadable(
    pictures: Sequence[Picture], indices: Sequence[int], facts: Facts
) -> dict[int, Finding]:
    """A finding for each picture that cannot be decoded, by its index.

    Args:
        pictures: The source's.
        indices: Which of them were measured.
        facts: Return value of :meth:`Measures.of`.
    """
    faults = {i: facts[DECODE].get(pictures[i].content, SOUND) for i in indices}
    return {
        i: Finding(pictures[i].name, "unreadable", reason)
        for i, reason in faults.items()
        if reason != SOUND
    }


def box(value: str) -> Box | None:
    """The box of a value of kind ``face:DETECTOR``; ``None`` without a face."""
    if not value:
        return None
    left, top, width, height = map(int, value.split())
    return left, top, width, height


def phash(image: Image.Image) -> str:
    """Perceptual hash of the grey picture: 64 bits as 16 hex digits.

    Source:
        ``imagehash.phash``: signs of the low frequencies of the discrete cosine transform.
    """
    import imagehash

    return str(imagehash.phash(image))


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian of the grey picture, in squared grey levels (of 256); >= 0.

    A larger picture is first reduced to 512 pixels on its longer side, so that numbers compare
    between pictures; a smaller one stays as it is.

    Source:
        Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy".
    """
    import cv2

    grey = np.asarray(image.convert("L"))
    factor = SHARPNESS_SIDE_PX / max(image.size)
    if factor < 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _face(detector: str, image: Image.Image) -> str:
    return " ".join(map(str, find_face(image, detector) or ()))


_WAYS: dict[str, Callable[[Image.Image], str]] = {
    DECODE: lambda _: SOUND,
    PHASH: phash,
    SHARPNESS: lambda image: f"{sharpness(image):.6g}",
}


def _way(kind: str) -> Callable[[Image.Image], str]:
    return partial(_face, kind.removeprefix(FACE)) if kind.startswith(FACE) else _WAYS[kind]


def _tool(kind: str) -> str:
    """What else a value depends on: the files of a face detector."""
    return f"/{detector_mark(kind.removeprefix(FACE))}" if kind.startswith(FACE) else ""


def _require_kinds(kinds: Sequence[str]) -> None:
    for kind in kinds:
        if kind.startswith(FACE):
            require_detector(kind.removeprefix(FACE))
        elif kind not in _WAYS:
            known = ", ".join((*_WAYS, f"{FACE}DETECTOR"))
            raise ValueError(f"kinds={kind}: unknown; choose among {known}.")


@dataclass(frozen=True, slots=True)
class _Work:
    content: str
    picture: int
    kinds: list[str]


def _measured(
    source: PictureSource, work: Sequence[_Work], progress: Progress
) -> Iterator[dict[str, dict[str, str]]]:
    """New values, some hundred pictures at a time, to be stored in between."""
    if not work:
        return
    bar = progress.add("checking pictures", len(work))
    try:
        with ThreadPoolExecutor(max_workers=min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            for start in range(0, len(work), _CHUNK):
                chunk = work[start : start + _CHUNK]
                results = pool.map(partial(_measured_one, source), chunk)
                fresh: dict[str, dict[str, str]] = defaultdict(dict)
                for count, (item, result) in enumerate(zip(chunk, results, strict=True), start=1):
                    for kind, value in result.items():
                        fresh[kind][item.content] = value
                    progress.update(bar, start + count)
                yield fresh
    finally:
        progress.remove(bar)


def _measured_one(source: PictureSource, work: _Work) -> dict[str, str]:
    try:
        image = source.image(work.picture)
    except (PictureError, DataError) as error:
        return {DECODE: str(error)}
    except OSError as error:
        return {DECODE: f"{error.strerror or error}; check the file"}
    return {kind: _way(kind)(image) for kind in work.kinds}
