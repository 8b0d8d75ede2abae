"""The typed schema of the ``data`` group; values live in ``conf/data``, checks live here."""

import re
from dataclasses import dataclass, field

from omegaconf import MISSING

from sdlora.config.captions import CaptionsConfig
from sdlora.config.data_filters import FiltersConfig
from sdlora.config.data_prior import PriorConfig
from sdlora.config.effect import given, of, other_than, where
from sdlora.config.rules import (
    require,
    require_choice,
    require_count,
    require_fraction,
    require_rate,
)

SOURCES = ("folder", "hub", "portraits")


@dataclass(slots=True, kw_only=True)
class RootConfig:
    """One folder or archive of training pictures, with settings of its own."""

    path: str = MISSING
    """Folder of pictures, or a ``.zip``, ``.tar`` or ``.tar.gz`` of one."""
    repeats: int = 1
    """How often an epoch shows each of its pictures; >= 1."""
    prefix: str = ""
    """Put in front of each of its captions, such as a trigger word."""
    class_caption: str | None = None
    """Caption of its pictures without one of their own."""

    def __post_init__(self) -> None:
        require_count("data.roots.repeats", self.repeats)


@dataclass(slots=True, kw_only=True)
class BucketsConfig:
    """The sizes that training pictures are cut to."""

    mode: str = MISSING
    """``square`` (of ``data.resolution``), ``auto`` (many aspects of its area) or ``fixed``."""
    sizes: list[str] = field(default_factory=list)
    """The sizes of mode ``fixed``, as ``512x768`` (width x height)."""
    step: int | None = field(default=None, metadata=where(of(".mode", "auto")))
    """Sides of automatic sizes are multiples of this, in pixels; ``null``: what the model needs."""
    min_side: int = field(default=MISSING, metadata=where(of(".mode", "auto")))
    """Shortest side of automatic sizes, in pixels."""
    max_side: int = field(default=MISSING, metadata=where(of(".mode", "auto")))
    """Longest side of automatic sizes, in pixels."""
    max_aspect: float = field(default=MISSING, metadata=where(of(".mode", "auto")))
    """Greatest longer side / shorter side of automatic sizes; >= 1."""

    def __post_init__(self) -> None:
        require_choice("data.buckets.mode", self.mode, ("square", "auto", "fixed"))
        for key in ("min_side", "max_side"):
            require_count(f"data.buckets.{key}", getattr(self, key), 8)
        if self.step is not None:
            require_count("data.buckets.step", self.step, 8)
        require(
            self.max_aspect >= 1, "data.buckets.max_aspect", self.max_aspect, "must be at least 1"
        )
        require(
            (self.mode == "fixed") == bool(self.sizes),
            "data.buckets.sizes",
            self.sizes,
            "belongs to data.buckets.mode=fixed, which needs at least one, such as [512x768]",
        )


@dataclass(slots=True, kw_only=True)
class CacheConfig:
    """Where encoded pictures and captions are kept."""

    mode: str = MISSING
    """``disk`` (each picture is encoded once, for all runs), ``memory`` (for this run) or ``off``
    (at every step). On the command line ``data.cache=off`` is short for this key."""
    dir: str | None = None
    """Folder of the cache; ``null``: ``SDLORA_CACHE``, else the user's cache folder."""
    max_gib: float = field(default=MISSING, metadata=where(of(".mode", "disk")))
    """Largest size on disk; the least recently used entries are removed first. > 0."""
    resident_gib: float = field(default=MISSING, metadata=where(of(".mode", "disk", "memory")))
    """Up to this size (and a quarter of a GPU's free memory) a set is kept on the training device;
    a larger one is memory-mapped. > 0."""

    def __post_init__(self) -> None:
        require_choice("data.cache.mode", self.mode, ("disk", "memory", "off"))
        require_rate("data.cache.max_gib", self.max_gib)
        require_rate("data.cache.resident_gib", self.resident_gib)


@dataclass(slots=True, kw_only=True)
class HubConfig:
    """Split and columns of a Hugging Face data set, and how its rows are read."""

    split: str = MISSING
    """Split of the data set."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the Hub."""
    image_column: str | None = None
    """Column of the pictures; ``null``: the one with a customary name."""
    caption_column: str | None = None
    """Column of the captions; ``null``: the one with a customary name."""
    streaming: bool = MISSING
    """Stream the rows instead of storing the set: for sets larger than the disk."""
    shuffle_buffer: int = field(default=MISSING, metadata=where(given(".streaming")))
    """Size of the shuffle buffer of streaming, in rows; >= 1."""

    def __post_init__(self) -> None:
        require_count("data.hub.shuffle_buffer", self.shuffle_buffer)


@dataclass(slots=True, kw_only=True)
class DataConfig:
    """Training pictures: sources, captions, cuts, cache and batches."""

    source: str = MISSING
    """Where pictures come from: ``folder``, ``hub`` (a Hugging Face set) or ``portraits``."""
    root: str | None = field(default=None, metadata=where(other_than("data.source", "portraits")))
    """Folder or archive of captioned pictures, or ``example:NAME`` for one of the shipped folders;
    for ``source: hub`` the id or local path of the data set."""
    roots: list[RootConfig] = field(default_factory=list)
    """Several folders, each with its own settings; instead of ``root``."""
    nested: bool = field(default=MISSING, metadata=where(of("data.source", "folder")))
    """Whether sub-folders are read; one called ``held_out`` (in any letter case) never is."""
    val_root: str | None = None
    """Folder of captioned pictures for the validation loss; ``null``: the folder ``held_out`` of a
    root."""
    val_fraction: float | None = MISSING
    """Share of the pictures that is held out for the validation loss and the scores; [0, 1).
    ``null``: a tenth of 20 or more pictures, where neither a folder ``held_out``, nor ``val_root``,
    nor ``evaluation.references`` holds others, and rows are not streamed."""
    on_error: str = field(default=MISSING, metadata=where(other_than("data.source", "portraits")))
    """What happens when a picture or caption cannot be used: ``raise``, or ``skip`` and list it."""
    num_pictures: int = field(default=MISSING, metadata=where(of("data.source", "portraits")))
    """How many portraits to draw (``source: portraits``); >= 1."""
    resolution: int = MISSING
    """Side of square training pictures in pixels; automatic buckets have about its area."""
    buckets: BucketsConfig = MISSING
    crop: str = MISSING
    """``center``, ``random`` (cannot be cached) or ``face`` (around the largest face)."""
    face_detector: str = field(default=MISSING, metadata=where(of("data.crop", "face")))
    """deepface's detector for ``crop: face``: opencv, ssd, yunet, ..."""
    upscale: bool = MISSING
    """Whether pictures smaller than their bucket may be enlarged."""
    flip: bool = MISSING
    """Mirror a sample with probability 1/2. Leave off for faces and text."""
    background: str = field(default=MISSING, metadata=where(other_than("data.source", "portraits")))
    """Colour under transparent parts, as ``#rrggbb``."""
    alpha: str = field(default=MISSING, metadata=where(other_than("data.source", "portraits")))
    """What transparency means: ``background`` (lay it over the colour) or ``mask`` (and train only
    what is opaque)."""
    mask_weight: float = MISSING
    """Loss weight where a mask (``NAME.mask.png`` and the like, or alpha) is black; [0, 1)."""
    trigger_word: str | None = None
    """The word that calls the subject, such as ``sks``: put in front of every caption that does not
    have it, and of prompts (``sampling.trigger_word``); ``evaluation.trigger_word`` is it, too."""
    class_word: str | None = None
    """What the subject is, such as ``man``: ``prior.prompt`` is a photo of it, and it stands for
    the trigger word where a model that never saw that word judges (``evaluation.class_word``)."""
    captions: CaptionsConfig = field(
        default=MISSING, metadata=where(other_than("model.family", "ddpm"))
    )
    filters: FiltersConfig = MISSING
    prior: PriorConfig = MISSING
    cache: CacheConfig = MISSING
    hub: HubConfig = field(default=MISSING, metadata=where(of("data.source", "hub")))
    batch_size: int = MISSING
    """Pictures in one forward pass on one device; >= 1."""
    num_workers: int = MISSING
    """Processes that read pictures; 0 reads in the training process."""

    def __post_init__(self) -> None:
        require_choice("data.source", self.source, SOURCES)
        require_choice("data.on_error", self.on_error, ("raise", "skip"))
        require_choice("data.crop", self.crop, ("center", "random", "face"))
        require_choice("data.alpha", self.alpha, ("background", "mask"))
        require_count("data.num_pictures", self.num_pictures)
        require_count("data.batch_size", self.batch_size)
        require_count("data.num_workers", self.num_workers, 0)
        require_fraction("data.mask_weight", self.mask_weight)
        if self.val_fraction is not None:
            require_fraction("data.val_fraction", self.val_fraction)
        require(
            not (self.val_root and self.val_fraction),
            "data.val_fraction",
            self.val_fraction,
            "and data.val_root cannot both be given; set one to 0 or null",
        )
        self._check_words()
        self._check_roots()
        self._check_names()
        near = max(8, round(self.resolution / 8) * 8)
        require(
            8 <= self.resolution <= 4096 and self.resolution % 8 == 0,
            "data.resolution",
            self.resolution,
            f"must be a multiple of 8 between 8 and 4096; the nearest is {min(near, 4096)}",
        )
        require(
            re.fullmatch("#[0-9a-fA-F]{6}", self.background) is not None,
            "data.background",
            self.background,
            "write a colour as #rrggbb, such as #ffffff",
        )
        require(
            not (self.crop == "random" and self.cache.mode != "off"),
            "data.crop",
            "random",
            "gives new pixels at every step, so it needs data.cache=off",
        )
        self._check_streaming()

    @property
    def named_source(self) -> str:
        """Key and value that say where the pictures come from, for a message."""
        if self.source == "portraits":
            return f"data.num_pictures={self.num_pictures}"
        paths = ", ".join(root.path for root in self.roots)
        return f"data.roots=[{paths}]" if self.roots else f"data.root={self.root}"

    def _check_words(self) -> None:
        require(
            self.trigger_word is None or bool(self.trigger_word.strip(" ,")),
            "data.trigger_word",
            repr(self.trigger_word),
            "needs a visible character; name the word, or null",
        )
        require(
            not self.class_word or bool(self.trigger_word) or self.prior.mode != "none",
            "data.class_word",
            self.class_word,
            "has no effect without data.trigger_word, which it replaces for the scores, or "
            "data.prior.mode=class or teacher; set one of them, or it to null",
        )

    def _check_roots(self) -> None:
        if self.source == "portraits":
            return
        require(
            bool(self.root) or bool(self.roots),
            "data.root",
            self.root,
            "name the Hugging Face set, such as OWNER/NAME, or a local path"
            if self.source == "hub"
            else "name the folder with your pictures and captions",
        )
        require(
            not (self.root and self.roots),
            "data.roots",
            [root.path for root in self.roots],
            "and data.root cannot both be given; set data.root=null",
        )
        require(
            self.source == "folder" or not self.roots,
            "data.roots",
            [root.path for root in self.roots],
            "belongs to data.source=folder; name a Hub set with data.root",
        )

    def _check_names(self) -> None:
        require(
            self.source == "folder" or not self.captions.from_name,
            "data.captions.from_name",
            True,
            "belongs to data.source=folder, whose files have names; set it to false",
        )

    def _check_streaming(self) -> None:
        streamed = self.source == "hub" and self.hub.streaming
        simple = self.cache.mode == "off" and self.buckets.mode == "square" and self.crop != "face"
        require(
            simple or not streamed,
            "data.hub.streaming",
            True,
            "streams the rows: set data.cache=off, data.buckets.mode=square and data.crop to "
            "center or random",
        )
        require(
            not (streamed and self.val_fraction),
            "data.val_fraction",
            self.val_fraction,
            "cannot be held out of a streamed set; set it to 0, and name held-out pictures with "
            "evaluation.references=FOLDER or data.val_root=FOLDER",
        )
        require(
            not (streamed and self.trigger_word),
            "data.trigger_word",
            self.trigger_word,
            "is not put into the captions of a streamed set; set it to null, and "
            f"data.captions.prefix='{self.trigger_word}, '",
        )
        require(
            not (streamed and self.prior.mode == "class"),
            "data.prior.mode",
            "class",
            "cannot be mixed into a streamed set; use teacher",
        )
