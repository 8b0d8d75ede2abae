"""Findings of loss masks: those that cannot be read, and those that leave nothing to train."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sdlora.data.pictures.cuts import Geometry
from sdlora.data.pictures.picture import Finding, Picture
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.selection.measures import FactStore
from sdlora.data.sources.picture_source import DataError, PictureSource

_REVISION = "1"  # raise it when the box is computed in another way
_FILE, _ALPHA = "mask", "alpha"
_MAX_THREADS = 8


def mask_findings(
    source: PictureSource, index: FactStore, cuts: Sequence[Geometry] | None
) -> dict[int, Finding]:
    """A finding for each mask that cannot be decoded or is black where its picture is trained.

    Args:
        source: The pictures; masks that are not known are decoded.
        index: Boxes of other runs.
        cuts: Cut of each picture; ``None`` where cuts vary: then only wholly black masks count.

    Returns:
        By number of the picture.
    """
    numbers = [n for n, picture in enumerate(source.pictures) if picture.has_mask]
    boxes, faults = _boxes(source, index, numbers)
    for number in numbers:
        picture = source.pictures[number]
        if number in faults:
            continue
        box = boxes[picture.mask_content]
        if not box:
            reason = "is all black, so that nothing of it is trained; paint white what is to be"
            faults[number] = _finding(picture, "black_mask", reason)
        elif cuts is not None and not _overlap(box, cuts[number].crop):
            reason = "is black in all that the cut leaves; crop the picture by hand"
            faults[number] = _finding(picture, "black_mask", reason)
    return faults


def _finding(picture: Picture, kind: str, reason: str) -> Finding:
    return Finding(picture.name, kind, f"its mask {reason}, or remove the mask")


def _boxes(
    source: PictureSource, index: FactStore, numbers: Sequence[int]
) -> tuple[dict[str, str], dict[int, Finding]]:
    """Mask's content -> box of what is not black, as ``left top right bottom``; and faults."""
    kinds = {n: _ALPHA if _by_alpha(source.pictures[n]) else _FILE for n in numbers}
    boxes: dict[str, str] = {}
    for kind in (_FILE, _ALPHA):
        contents = [source.pictures[n].mask_content for n in numbers if kinds[n] == kind]
        boxes |= index.facts(f"{kind}_box/{_REVISION}", contents)
    new = [n for n in numbers if source.pictures[n].mask_content not in boxes]
    with ThreadPoolExecutor(max_workers=min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        found = dict(zip(new, pool.map(lambda n: _box(source, n), new), strict=True))
    faults = {n: box for n, box in found.items() if isinstance(box, Finding)}
    for kind in (_FILE, _ALPHA):
        fresh = {
            source.pictures[n].mask_content: box
            for n, box in found.items()
            if isinstance(box, str) and kinds[n] == kind
        }
        index.store_facts(f"{kind}_box/{_REVISION}", fresh)
        boxes |= fresh
    return boxes, faults


def _by_alpha(picture: Picture) -> bool:
    return picture.mask_content == picture.content


def _box(source: PictureSource, number: int) -> str | Finding:
    picture = source.pictures[number]
    try:
        mask = source.mask(number)
    except (PictureError, DataError) as error:
        return Finding(picture.name, "unreadable", f"its mask: {error}")
    except OSError as error:
        return Finding(picture.name, "unreadable", f"its mask: {error.strerror or error}")
    assert mask is not None, "a picture with a mask has one"
    return " ".join(map(str, mask.getbbox() or ()))


def _overlap(box: str, crop: tuple[float, float, float, float]) -> bool:
    left, top, right, bottom = map(int, box.split())
    return left < crop[2] and right > crop[0] and top < crop[3] and bottom > crop[1]
