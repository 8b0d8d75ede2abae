"""The data sheet: counts, buckets, cuts, words and findings of the training pictures."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sdlora.config.data import DataConfig
from sdlora.data.captions.caption_check import caption_findings, frequent_words
from sdlora.data.captions.recipe import is_static, sample_caption, static_caption
from sdlora.data.pictures.cuts import Geometry, Size
from sdlora.data.pictures.faces import Box
from sdlora.data.pictures.picture import ERROR, REMOVED, WARNING, Finding, Picture, quoted
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sheet.unused_keys import unused_keys
from sdlora.data.sources.picture_source import fingerprint
from sdlora.models.tokens import tokenize

LARGE_CUT = 0.5
"""A cut of more than this share of a picture's area gives a warning."""

_SEVERITIES = (ERROR, REMOVED, WARNING)


@dataclass(frozen=True, slots=True)
class Row:
    """One training picture with its cut and caption.

    Attributes:
        picture: The picture.
        bucket: Size of the training picture, in pixels.
        resized: Size of the whole picture at the training picture's scale, in pixels.
        crop: Left, top, right, bottom of what is kept, in pixels of the upright picture.
        caption: Caption of a sample.
        enlarged: Pixels of the training picture per pixel of the picture; above 1 it is enlarged.
    """

    picture: Picture
    bucket: Size
    resized: Size
    crop: tuple[float, float, float, float]
    caption: str
    enlarged: float

    @property
    def cut(self) -> float:
        """Share of the picture's area that the crop takes away, in [0, 1)."""
        left, top, right, bottom = self.crop
        width, height = self.picture.size
        return max(0.0, round(1.0 - (right - left) * (bottom - top) / (width * height), 6))


@dataclass(frozen=True, slots=True)
class Bucket:
    """Pictures of one training size.

    Attributes:
        size: In pixels.
        pictures: How many.
        samples: How many in an epoch, with repeats.
        batches: How many in an epoch, the last of which may be short.
        mean_cut: Share of a picture's area that its crop takes away, on average.
        max_cut: The largest such share.
        enlarged: Number of enlarged pictures.
    """

    size: Size
    pictures: int
    samples: int
    batches: int
    mean_cut: float
    max_cut: float
    enlarged: int


@dataclass(frozen=True)
class Sheet:
    """The findings of the check.

    Attributes:
        rows: The training pictures.
        findings: Faults and oddities, by severity, kind and name.
        notes: Remarks on other files, which are not read.
        words: The most frequent words of the captions and how often each occurs.
        buckets: The largest first.
        faces: The face found in each of ``rows``, ``None`` if there is none; empty if no detector
            looked for them.
        held_out: Names of the captioned pictures that are held out of training.
        content: Hash of all names, captions, pictures, repeats and weights.
    """

    rows: Sequence[Row]
    findings: Sequence[Finding]
    notes: Sequence[str]
    words: Sequence[tuple[str, int]]
    buckets: Sequence[Bucket]
    faces: Sequence[Box | None]
    held_out: Sequence[str]
    content: str

    @cached_property
    def counts(self) -> dict[str, int]:
        """Numbers of pictures, samples, captions and files, by name."""
        captions = [row.caption.strip() for row in self.rows]
        left_out, removed = (
            {finding.name for finding in self.findings if finding.severity == severity}
            for severity in (ERROR, REMOVED)
        )
        return {
            "pictures": len(self.rows),
            "samples": sum(bucket.samples for bucket in self.buckets),
            "batches": sum(bucket.batches for bucket in self.buckets),
            "captions": len(set(captions) - {""}),
            "empty_captions": captions.count(""),
            "enlarged": sum(bucket.enlarged for bucket in self.buckets),
            "files_with_errors": len(left_out),
            "files_removed": len(removed),
        }

    def by_kind(self) -> dict[tuple[str, str], list[Finding]]:
        """Findings by severity and kind: errors first, then removed pictures, then warnings."""
        groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in self.findings:
            groups[finding.severity, finding.kind].append(finding)
        return groups


def sheet_of(
    pictures: PictureSet, data: DataConfig, seed: int, tokenizers: Sequence[Any] | None
) -> Sheet:
    """The data sheet of a set; captions are tokenised, pictures are not decoded.

    Args:
        pictures: The pictures with their cuts.
        data: Captions and batch size.
        seed: The run's seed; captions that vary are shown as drawn for their picture's number.
        tokenizers: The model's tokenizers; empty if it takes no prompts, ``None`` if they are
            unknown, so that too long captions are not found.
    """
    recipe, shown = data.captions, pictures.source.pictures
    captions = [
        static_caption(recipe, each.text, each.prefix)
        if is_static(recipe)
        else sample_caption(recipe, each.text, each.prefix, seed, number)
        for number, each in enumerate(shown)
    ]
    cut = tokenize(tokenizers or [], captions, recipe.max_chunks).cut
    takes_prompts = tokenizers is None or len(tokenizers) > 0
    odd = caption_findings(shown, recipe, cut, _shared_captions(data)) if takes_prompts else []
    rows = [row(*each) for each in zip(shown, pictures.geometry, captions, strict=True)]
    return sheet(
        rows,
        [
            *pictures.source.findings,
            *odd,
            *large_cuts(rows, data.buckets.mode),
            *unused_keys(shown, data),
        ],
        pictures.source.notes,
        frequent_words(shown, recipe),
        data.batch_size,
        pictures.faces,
        pictures.held_out,
    )


def row(picture: Picture, geometry: Geometry, caption: str) -> Row:
    """The row of a picture with this cut and caption."""
    scale = round(geometry.scale, 6)  # a scale of 1 is not to count as enlarged for its rounding
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return Row(picture, geometry.bucket, (width, height), geometry.crop, caption, scale)


def sheet(
    rows: Sequence[Row],
    findings: Sequence[Finding],
    notes: Sequence[str],
    words: Sequence[tuple[str, int]],
    batch_size: int,
    faces: Sequence[Box | None] = (),
    held_out: Sequence[str] = (),
) -> Sheet:
    """Make the sheet, and add warnings of equal pictures.

    Args:
        rows: The training pictures.
        findings: Findings of source, filters, captions and buckets.
        notes: The source's.
        words: See :class:`Sheet`.
        batch_size: Largest number of samples in a batch.
        faces: One for each of ``rows``, or empty.
        held_out: See :class:`Sheet`.
    """
    found = [*findings, *_same_pictures(rows)]
    found.sort(key=lambda f: (_SEVERITIES.index(f.severity), f.kind, f.name, f.reason))
    return Sheet(
        rows=rows,
        findings=found,
        notes=notes,
        words=words,
        buckets=_buckets(rows, batch_size),
        faces=faces,
        held_out=held_out,
        content=fingerprint([row.picture for row in rows]),
    )


def _shared_captions(data: DataConfig) -> set[str]:
    """Captions that the config gives to many pictures."""
    given = [data.captions.default, data.prior.prompt, *(root.class_caption for root in data.roots)]
    return {text.strip() for text in given if text}


def _buckets(rows: Sequence[Row], batch_size: int) -> list[Bucket]:
    groups: dict[Size, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.bucket].append(row)
    buckets = []
    for size, own in groups.items():
        samples = sum(row.picture.repeats for row in own)
        cuts = [row.cut for row in own]
        buckets.append(
            Bucket(
                size=size,
                pictures=len(own),
                samples=samples,
                batches=-(-samples // batch_size),
                mean_cut=sum(cuts) / len(cuts),
                max_cut=max(cuts),
                enlarged=sum(row.enlarged > 1 for row in own),
            )
        )
    return sorted(buckets, key=lambda bucket: (-bucket.pictures, bucket.size))


def _same_pictures(rows: Sequence[Row]) -> list[Finding]:
    groups: dict[str, list[Picture]] = defaultdict(list)
    for row in rows:
        groups[row.picture.content].append(row.picture)
    return [
        Finding(own[0].name, "same_picture", _same(own), WARNING)
        for own in groups.values()
        if len(own) > 1
    ]


def _same(pictures: Sequence[Picture]) -> str:
    names = [quoted(picture.name) for picture in pictures[1:]]
    shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    other = " with other captions" * (len({picture.text for picture in pictures}) > 1)
    return (
        f"has the same bytes as {len(names)} other file(s){other} ({shown}); remove them, or set "
        "data.filters.exact_duplicates=true"
    )


def large_cuts(rows: Sequence[Row], mode: str) -> list[Finding]:
    """Warnings of pictures that lose much of their area, with what ``data.buckets.mode`` allows."""
    remedy = {
        "square": "let the sizes follow the pictures: data.buckets.mode=auto",
        "auto": "allow longer sizes with data.buckets.max_aspect",
        "fixed": "add a size of its aspect to data.buckets.sizes",
    }[mode]
    return [
        Finding(
            row.picture.name,
            "large_cut",
            f"loses {row.cut:.0%} of its area in the size {row.bucket[0]}x{row.bucket[1]}; "
            f"crop it by hand, or {remedy}",
            WARNING,
        )
        for row in rows
        if row.cut > LARGE_CUT
    ]
