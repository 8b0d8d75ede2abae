"""Typed config -> checked pictures: source, filters, and what of each picture is trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path

from sdlora.assembly import base_model
from sdlora.assembly.class_pictures import class_folder
from sdlora.assembly.data_source import colour, file_index, picture_source, with_class_pictures
from sdlora.assembly.unconditional import check_side
from sdlora.config.data import DataConfig
from sdlora.config.train import TrainConfig
from sdlora.data.batches.plan import BatchPlan
from sdlora.data.captions.recipe import CaptionRecipe
from sdlora.data.pictures.buckets import (
    automatic_buckets,
    fixed_buckets,
    nearest_bucket,
    own_bucket,
)
from sdlora.data.pictures.cuts import CENTER, Geometry, Size, anchor_around, fitted, needs_enlarging
from sdlora.data.pictures.faces import Box
from sdlora.data.pictures.picture import WARNING, Finding, Picture, quoted
from sdlora.data.selection.filters import Filters, look_alikes
from sdlora.data.selection.filters import apply as apply_filters
from sdlora.data.selection.measures import (
    DECODE,
    FACE,
    PHASH,
    Facts,
    Measures,
    box,
    measure,
    unreadable,
)
from sdlora.data.sources.folder_source import FolderSource, Root
from sdlora.data.sources.picture_source import (
    CLASS_PICTURES,
    DataError,
    PictureSource,
    Selection,
    fingerprint,
)
from sdlora.models.source import check_folder, pixel_steps, resolve
from sdlora.runtime.progress import Progress

LOOK_ALIKE_BITS = 4
"""Pictures whose perceptual hashes differ in so few bits of 64 are nearly always one motif."""


@dataclass(frozen=True, slots=True)
class CheckedData:
    """Pictures that can be trained on, and how.

    Attributes:
        source: The pictures.
        geometry: What of each is trained on.
        recipe: How captions are made.
        fingerprint: Hex SHA-256 of all pictures found and their captions.
        faces: The face in each picture, if they were looked for; else empty.
    """

    source: PictureSource
    geometry: list[Geometry]
    recipe: CaptionRecipe
    fingerprint: str
    faces: Sequence[Box | None] = ()

    def without(self, faults: Mapping[int, Finding]) -> "CheckedData":
        """The same without some pictures, by number, and why."""
        if not faults:
            return self
        kept = [number for number in range(len(self.geometry)) if number not in faults]
        source = Selection(self.source, kept, list(faults.values()))
        return self._of(source, kept)

    def split(self, fraction: float) -> tuple["CheckedData", "CheckedData"]:
        """What is trained on, and about this share of the pictures held out from it."""
        sides = split_numbers(self.source.pictures, fraction)
        trained, held_out = (self._of(Selection(self.source, side), side) for side in sides)
        return trained, held_out

    def _of(self, source: PictureSource, numbers: Sequence[int]) -> "CheckedData":
        """These pictures, which are those of ``source``."""
        geometry = [self.geometry[number] for number in numbers]
        faces = [self.faces[number] for number in numbers] if self.faces else ()
        return replace(self, source=source, geometry=geometry, faces=faces)


def split_numbers(pictures: Sequence[Picture], fraction: float) -> tuple[list[int], list[int]]:
    """Numbers of the pictures that are trained on, and of about this share that are held out.

    A picture's own bytes decide, so that it stays on its side when others come or go, and copies
    stay together. Class pictures are never held out.
    """
    sides: tuple[list[int], list[int]] = [], []
    for number, picture in enumerate(pictures):
        place = int(picture.content[:13], 16) / 16**13
        is_own = not picture.name.startswith(CLASS_PICTURES)
        sides[is_own and place < fraction].append(number)
    return sides


def checked_data(config: TrainConfig, folder: Path, progress: Progress) -> CheckedData:
    """Find the pictures, filter them, and choose what of each is trained on.

    Headers and captions are read; pictures are decoded, each once for ever, only for what needs it:
    ``check=true``, a run without cache, some filters, cuts around faces.

    Raises:
        ValueError: For a folder or a setting that cannot work. Single files raise nothing here.
    """
    data = config.data
    model = base_model.model_source(config.model)
    base = resolve(model)
    check_folder(base, model)
    check_side(data.resolution, base, model)
    if config.model.architecture and not model.architecture:
        progress.print(f"note: {model.path} brings its own architecture, not model.architecture")
    _, step = pixel_steps(base, model)
    sizes = buckets(data, step)
    with file_index(data) as index:
        source = picture_source(data, index, progress)
        for note in index.notes:
            progress.print(f"note: {note}")
        if data.prior.mode == "class":
            others = class_folder(config, folder)
            if others.is_dir() or not config.check:
                source = with_class_pictures(source, others, data, index, progress)
            else:
                progress.print(f"note: the run will draw its class pictures into {others}")

        def measured(kinds: Sequence[str], numbers: Sequence[int]) -> Facts:
            rendering = f"{data.background} {data.alpha}"
            return measure(source, numbers, kinds, index, progress, rendering)

        return _chosen(config, source, measured, sizes, step)


def folder_data(config: TrainConfig, folder: Path, recipe: CaptionRecipe) -> CheckedData:
    """Pictures of another folder, cut as the training ones are; faults are findings."""
    data = config.data
    model = base_model.model_source(config.model)
    _, step = pixel_steps(resolve(model), model)
    with file_index(data) as index:
        source = FolderSource(
            [Root(path=folder)],
            caption_endings=data.captions.endings,
            default_caption=data.captions.default,
            background=colour(data.background),
            index=index,
        )
    nobody = [None] * len(source.pictures)
    cuts, too_small = _cuts(source.pictures, nobody, buckets(data, step), data, step)
    found = CheckedData(source, cuts, recipe, fingerprint(source.pictures))
    return found.without(too_small)


def _chosen(
    config: TrainConfig,
    source: PictureSource,
    measured: Measures,
    sizes: Sequence[Size],
    step: int,
) -> CheckedData:
    """The pictures that filters and faults leave, and what of each is trained on."""
    data, pictures = config.data, source.pictures
    everything = range(len(pictures))
    faces = f"{FACE}{data.face_detector}" if data.crop == "face" else ""
    facts: Facts = {DECODE: {}}
    if config.check or faces or data.cache.mode == "off":
        facts = measured([PHASH] * config.check + [faces] * bool(faces), everything)
    boxes = [box(facts[faces].get(picture.content, "")) if faces else None for picture in pictures]
    cuts, too_small = _cuts(pictures, boxes, sizes, data, step)
    faults = unreadable(pictures, everything, facts) | too_small
    kept, removed = apply_filters(pictures, filters(data), measured)
    left = [number for number in kept if number not in faults]
    findings = [*removed, *(faults[number] for number in kept if number in faults)]
    findings += _look_alikes(pictures, left, facts[PHASH]) if config.check else []
    return CheckedData(
        source=Selection(source, left, findings),
        geometry=[cuts[number] for number in left],
        recipe=caption_recipe(data),
        fingerprint=fingerprint(pictures),
        faces=[boxes[number] for number in left] if faces else (),
    )


def caption_recipe(data: DataConfig) -> CaptionRecipe:
    """How captions are made."""
    captions = asdict(data.captions)
    return CaptionRecipe(**{item.name: captions[item.name] for item in fields(CaptionRecipe)})


def filters(data: DataConfig) -> Filters:
    """What is left out on purpose."""
    return Filters(**asdict(data.filters))


def buckets(data: DataConfig, step: int) -> list[Size]:
    """The sizes that pictures are cut to; ``step``: what the model's sides must be multiples of."""
    if data.buckets.mode == "square":
        if data.resolution % step:
            below = max(step, data.resolution // step * step)
            raise DataError(
                f"data.resolution={data.resolution}: this model needs a multiple of {step}; the "
                f"nearest are {below} and {below + step}"
            )
        return [(data.resolution, data.resolution)]
    if data.buckets.mode == "fixed":
        return fixed_buckets(data.buckets.sizes, step)
    own = data.buckets.step or step
    if own % step:
        raise DataError(f"data.buckets.step={own}: this model needs a multiple of {step}")
    return automatic_buckets(
        data.resolution,
        own,
        min_side=data.buckets.min_side,
        max_side=data.buckets.max_side,
        max_aspect=data.buckets.max_aspect,
    )


def batch_plan(checked: CheckedData, config: TrainConfig) -> BatchPlan:
    """Which pictures each batch shows."""
    sizes = sorted({cut.bucket for cut in checked.geometry})
    number = {size: place for place, size in enumerate(sizes)}
    return BatchPlan(
        [number[cut.bucket] for cut in checked.geometry],
        [picture.repeats for picture in checked.source.pictures],
        config.data.batch_size,
        config.seed,
    )


def _cuts(
    pictures: Sequence[Picture],
    boxes: Sequence[Box | None],
    sizes: Sequence[Size],
    data: DataConfig,
    step: int,
) -> tuple[list[Geometry], dict[int, Finding]]:
    """What of each picture is trained on, and those that are too small for it."""
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


def _look_alikes(
    pictures: Sequence[Picture], left: Sequence[int], hashes: Mapping[str, str]
) -> list[Finding]:
    """Warnings of pictures that look alike; equal files are told of elsewhere."""
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
