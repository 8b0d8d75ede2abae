"""The set of training pictures with their cuts: what filters and faults leave of a source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from sdlora.config.data import DataConfig
from sdlora.data.pictures.buckets import nearest_bucket, own_bucket
from sdlora.data.pictures.cuts import (
    CENTER,
    Geometry,
    Size,
    anchor_around,
    fitted,
    needs_enlarging,
)
from sdlora.data.pictures.faces import Box
from sdlora.data.pictures.picture import ERROR, WARNING, Finding, Picture, quoted
from sdlora.data.selection.filters import apply_filters, look_alikes
from sdlora.data.selection.mask_check import mask_findings
from sdlora.data.selection.measures import (
    DECODE,
    FACE,
    PHASH,
    Facts,
    Measures,
    box,
    unreadable,
)
from sdlora.data.sources.picture_source import (
    CLASS_PICTURES,
    PictureSource,
    Selection,
    fingerprint,
)

AUTOMATIC_SHARE = 0.1
"""Share of the pictures that is held out where nothing else is (``data.val_fraction=null``)."""

LEAST_PICTURES = 20
"""With fewer pictures none is held out by itself: every one of them is needed for training."""

LOOK_ALIKE_BITS = 4
"""Largest distance of perceptual hashes (64 bits) that nearly always means one motif."""


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Pictures that can be trained on, and their cuts.

    Attributes:
        source: The pictures.
        geometry: Cut of each picture.
        fingerprint: Hex SHA-256 of all pictures found and their captions.
        faces: The face in each picture if faces were detected, else empty.
        automatic_fraction: The fraction of :meth:`split` that holds out a tenth of all pictures
            found; 0 for few pictures.
        held_out: Names of the captioned pictures that are held out of training.
    """

    source: PictureSource
    geometry: list[Geometry]
    fingerprint: str
    faces: Sequence[Box | None] = ()
    automatic_fraction: float = 0.0
    held_out: Sequence[str] = ()

    def without(self, faults: Mapping[int, Finding]) -> "PictureSet":
        """The same set without some pictures, by number, with their findings."""
        if not faults:
            return self
        kept = [number for number in range(len(self.geometry)) if number not in faults]
        return self._of(Selection(self.source, kept, list(faults.values())), kept)

    def split(self, fraction: float) -> tuple["PictureSet", "PictureSet"]:
        """The training pictures, and about this share of the pictures held out."""
        sides = split_numbers(self.source.pictures, fraction)
        trained, held_out = (self._of(Selection(self.source, side), side) for side in sides)
        return trained, held_out

    def _of(self, source: PictureSource, numbers: Sequence[int]) -> "PictureSet":
        """The pictures of these numbers, with ``source`` as their source."""
        geometry = [self.geometry[number] for number in numbers]
        faces = [self.faces[number] for number in numbers] if self.faces else ()
        return replace(self, source=source, geometry=geometry, faces=faces)


def split_numbers(pictures: Sequence[Picture], fraction: float) -> tuple[list[int], list[int]]:
    """Numbers of the training pictures, and of about this share that is held out.

    The hash of a picture's bytes decides, so that a picture keeps its side when others are added or
    removed, and copies stay together. Class pictures are never held out.
    """
    sides: tuple[list[int], list[int]] = [], []
    for number, picture in enumerate(pictures):
        is_own = not picture.name.startswith(CLASS_PICTURES)
        sides[is_own and _place(picture) < fraction].append(number)
    return sides


def automatic_fraction(pictures: Sequence[Picture]) -> float:
    """The fraction with which :func:`split_numbers` holds out a tenth of these pictures.

    A fraction of 0.1 would hold out none of twenty in one case of eight, as hashes fall.

    Args:
        pictures: All pictures found, before filters; class pictures do not count.

    Returns:
        In [0, 1); 0 for fewer than :data:`LEAST_PICTURES`.
    """
    own = [picture for picture in pictures if not picture.name.startswith(CLASS_PICTURES)]
    if len(own) < LEAST_PICTURES:
        return 0.0
    places = sorted(map(_place, own))
    last = places[round(AUTOMATIC_SHARE * len(places)) - 1]
    after = next((place for place in places if place > last), None)
    return 0.0 if after is None else (last + after) / 2


def _place(picture: Picture) -> float:
    """A number in [0, 1) from the hash of the picture's bytes."""
    return int(picture.content[:13], 16) / 16**13


def selected_set(
    measures: Measures,
    data: DataConfig,
    sizes: Sequence[Size],
    step: int,
    *,
    is_check: bool,
    with_faces: bool = False,
) -> PictureSet:
    """The pictures that filters and faults leave, with their cuts.

    Pictures are decoded, once for all runs, only where that is needed: for a check, a run without
    cache, some filters, and cuts around faces.

    Args:
        measures: Measurements of the pictures.
        data: Filters, faces, and whether pictures may be enlarged.
        sizes: Bucket sizes.
        step: Sides of the model's pictures are multiples of this, in pixels.
        is_check: Whether to decode all, and to warn of pictures that look alike.
        with_faces: Whether to look for faces though no cut needs them.
    """
    source, pictures = measures.source, measures.source.pictures
    everything = range(len(pictures))
    is_anchor = data.crop == "face"
    faces = f"{FACE}{data.face_detector}" if is_anchor or with_faces else ""
    facts: Facts = {DECODE: {}}
    # a run that stops anyway names all that stops it, and not in a second round
    stops = data.on_error == "raise" and any(f.severity == ERROR for f in source.findings)
    if is_check or faces or data.cache.mode == "off" or stops:
        facts = measures.of([PHASH] * is_check + [faces] * bool(faces), everything)
    boxes = [box(facts[faces].get(picture.content, "")) if faces else None for picture in pictures]
    anchors = boxes if is_anchor else [None] * len(pictures)
    cuts, too_small = _cuts(pictures, anchors, sizes, data, step)
    fixed = None if data.crop == "random" else cuts
    black = mask_findings(source, measures.index, fixed if data.mask_weight == 0 else None)
    if data.mask_weight:  # a black mask is then a weight like any other
        black = {number: each for number, each in black.items() if each.kind == "unreadable"}
    faults = black | unreadable(pictures, everything, facts) | too_small
    kept, removed = apply_filters(pictures, data.filters, measures)
    left = [number for number in kept if number not in faults]
    findings = [*removed, *(faults[number] for number in kept if number in faults)]
    findings += _faceless(pictures, left, boxes, data.face_detector) if is_anchor else []
    findings += _look_alikes(pictures, left, facts[PHASH]) if is_check else []
    return PictureSet(
        source=Selection(source, left, findings),
        geometry=[cuts[number] for number in left],
        fingerprint=fingerprint(pictures),
        faces=[boxes[number] for number in left] if faces else (),
        automatic_fraction=automatic_fraction(pictures),
    )


def whole_set(
    source: PictureSource, data: DataConfig, sizes: Sequence[Size], step: int
) -> PictureSet:
    """All pictures of a source, cut as the training ones are; those too small are findings."""
    nobody = [None] * len(source.pictures)
    cuts, too_small = _cuts(source.pictures, nobody, sizes, data, step)
    return PictureSet(source, cuts, fingerprint(source.pictures)).without(too_small)


def _cuts(
    pictures: Sequence[Picture],
    boxes: Sequence[Box | None],
    sizes: Sequence[Size],
    data: DataConfig,
    step: int,
) -> tuple[list[Geometry], dict[int, Finding]]:
    """The cut of each picture, and findings of those that are too small."""
    nearest = cache(lambda size: nearest_bucket(size, sizes))
    cuts, too_small = [], {}
    for number, (picture, face) in enumerate(zip(pictures, boxes, strict=True)):
        bucket = nearest(picture.size)
        if not data.upscale and needs_enlarging(picture.size, bucket):
            own = own_bucket(picture.size, bucket, step) if data.buckets.mode == "auto" else None
            if own is None:
                too_small[number] = _too_small(picture, bucket)
            bucket = own or bucket
        anchor = anchor_around(picture.size, bucket, face) if face else CENTER
        cuts.append(fitted(picture.size, bucket, anchor))
    return cuts, too_small


def _faceless(
    pictures: Sequence[Picture], left: Sequence[int], boxes: Sequence[Box | None], detector: str
) -> list[Finding]:
    """Warnings of pictures that are cut around their centre, since no face was found."""
    reason = (
        f"no face found by data.face_detector={detector}, so it is cut around its centre; crop it "
        "by hand, or try another detector"
    )
    return [
        Finding(pictures[number].name, "faceless", reason, WARNING)
        for number in left
        if boxes[number] is None
    ]


def _look_alikes(
    pictures: Sequence[Picture], left: Sequence[int], hashes: Mapping[str, str]
) -> list[Finding]:
    """Warnings of pictures that look alike; equal files have a finding of their own."""
    alike = look_alikes(pictures, left, hashes, LOOK_ALIKE_BITS)
    return [
        Finding(
            pictures[number].name,
            "look_alike",
            f"looks like {quoted(pictures[other].name)} ({bits} of 64 hash bits differ); keep one, "
            f"or set data.filters.near_duplicates={LOOK_ALIKE_BITS}",
            WARNING,
        )
        for number, (other, bits) in alike.items()
        if pictures[number].content != pictures[other].content
    ]


def _too_small(picture: Picture, bucket: Size) -> Finding:
    reason = (
        f"is {picture.size[0]}x{picture.size[1]} pixels, too small for {bucket[0]}x{bucket[1]}; "
        "use a larger version, or set data.upscale=true"
    )
    return Finding(picture.name, "too_small", reason)
