"""Masks by the usual names, and masks and captions in folders of their own."""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import NamedTuple

from sdlora.data.pictures.picture import Finding
from sdlora.data.sources.file_index import FileKey
from sdlora.data.sources.folder_names import CAPTION_FOLDERS, MASK_FOLDERS
from sdlora.data.sources.scan import PICTURE, Listing

MASK = "mask"
"""Kind of mask files."""

TABLE, MAYBE_TABLE = "table", "maybe table"
"""Kinds of tables of captions: by their name, and by their columns if these are such."""

CAPTION = "caption"
"""Stands for all kinds of caption files."""

_SURE_MARKS = (".mask", ".masklabel", "-masklabel", "_masklabel")
_MARKS = (*_SURE_MARKS, "-mask", "_mask")
"""What ends the name of a mask, before its ending; the sure ones never that of a picture."""


def unmasked(stem: str) -> str | None:
    """The stem of the picture whose mask has this stem; ``None`` if it does not look like one."""
    folded = stem.casefold()
    mark = next((mark for mark in _MARKS if folded.endswith(mark) and folded != mark), None)
    return None if mark is None else stem[: -len(mark)]


def is_mask(stem: str, pictures: Container[str]) -> bool:
    """Whether a picture file is a mask by its name, among pictures of these stems.

    ``a.mask.png`` and ``a-masklabel.png`` are masks in any case, ``a_mask.png`` and ``a-mask.png``
    where there is a picture ``a``.
    """
    return unmasked(stem) in pictures or stem.casefold().endswith(_SURE_MARKS)


def sort_masks(listing: Listing) -> None:
    """Make masks of the files of a folder that are masks by their names."""
    pictures = listing.files[PICTURE]
    for stem in [stem for stem in pictures if is_mask(stem, pictures)]:
        for file in listing.take(PICTURE, stem):
            listing.add(MASK, str(unmasked(stem)), file)
    listing.blocked |= {base for stem in listing.blocked if (base := unmasked(stem)) is not None}


class _Place(NamedTuple):
    """Where a folder of masks or captions lies.

    Attributes:
        kind: ``MASK``, or ``CAPTION`` for all kinds of captions.
        above: Prefix of the folder that it lies in.
        below: Path of the listed folder below it, ending in ``/``, or ``""``.
        folder: Its own prefix.
    """

    kind: str
    above: str
    below: str
    folder: str


class Companions:
    """Gives the files of ``masks/`` and ``captions/`` to the pictures that they belong to.

    ``masks/a.png`` is the mask of ``a.jpg`` beside the folder ``masks``, else of the one picture
    ``a`` in a folder beside it, such as ``images/a.jpg``; ``masks/sub/a.png`` that of
    ``sub/a.jpg`` there. A folder ``captions`` without pictures is read in the same way.

    Args:
        listings: All folders; those of masks and captions lose the files that are given away.
        captions: Kinds of caption files.

    Attributes:
        findings: Files that belong to no picture or to several.
    """

    def __init__(self, listings: Sequence[Listing], captions: Iterable[str]) -> None:
        self.findings: list[Finding] = []
        self._captions = tuple(captions)
        self._by_prefix = {listing.folder.prefix: listing for listing in listings}
        self._below: dict[str, list[str]] = defaultdict(list)
        roots = {each.folder.root: each.folder.prefix for each in listings if each.folder.is_root}
        places = {}
        for listing in listings:
            prefix = listing.folder.prefix
            place = self._place(listing, roots[listing.folder.root])
            if place is not None:
                places[prefix] = place
            elif not listing.folder.is_root:
                self._below[prefix[: prefix[:-1].rfind("/") + 1]].append(prefix)
        for prefix, place in places.items():
            self._give_away(self._by_prefix[prefix], place)

    def _place(self, listing: Listing, root: str) -> _Place | None:
        """The place of a folder of masks or captions; ``None`` for folders of pictures."""
        parts = listing.folder.prefix[len(root) :].split("/")[:-1]
        for number, part in enumerate(parts):
            kind = _kind(part)
            has_pictures = bool(listing.files[PICTURE])
            if kind is None or (kind == CAPTION and (has_pictures or listing.files[TABLE])):
                continue
            above = root + "".join(f"{each}/" for each in parts[:number])
            below = "".join(f"{each}/" for each in parts[number + 1 :])
            return _Place(kind, above, below, f"{above}{part}/")
        return None

    def _give_away(self, listing: Listing, place: _Place) -> None:
        has_texts = any(listing.files[kind] for kind in (*self._captions, TABLE, MAYBE_TABLE))
        if place.kind == MASK and has_texts:
            name = place.folder.rstrip("/")
            reason = (
                "is a folder of masks by its name, but holds captions; rename it if these are "
                "pictures to train on, or remove the captions"
            )
            self.findings.append(Finding(name, "masks_or_pictures", reason))
            listing.clear()
            return
        for kind, stem, base in list(self._files(listing, place)):
            for file in listing.take(kind, stem):
                owner = self._owner(place, base, listing, file)
                if owner is not None:
                    owner.add(MASK if place.kind == MASK else kind, base, file)

    def _files(self, listing: Listing, place: _Place) -> Iterator[tuple[str, str, str]]:
        """Kind, stem and stem of the picture of the files to be given away."""
        kinds = (PICTURE, MASK) if place.kind == MASK else self._captions
        for kind in kinds:
            for stem in listing.files[kind]:
                base = unmasked(stem) if kind == PICTURE else None
                yield kind, stem, stem if base is None else base

    def _owner(self, place: _Place, stem: str, listing: Listing, file: FileKey) -> Listing | None:
        """The folder with the picture of a file; ``None``, with a finding, for none or several."""
        beside = [f"{place.above}{place.below}"]
        inside = [f"{prefix}{place.below}" for prefix in self._below[place.above]]
        for prefixes in (beside, inside):
            owners = [
                self._by_prefix[prefix]
                for prefix in prefixes
                if prefix in self._by_prefix and stem in self._by_prefix[prefix].files[PICTURE]
            ]
            if len(owners) == 1:
                return owners[0]
            if owners:
                names = ", ".join(f"{each.folder.prefix}{stem}" for each in owners)
                reason = f"is of {len(owners)} pictures: {names}; put it beside its picture"
                self.findings.append(Finding(listing.folder.name_of(file), "ambiguous", reason))
                return None
        what, rename = "caption", ""
        if place.kind == MASK:
            what, rename = "mask", ", or rename the folder if it holds pictures to train on"
        reason = f"{what} without a picture; add the picture or remove it{rename}"
        self.findings.append(Finding(listing.folder.name_of(file), f"orphan_{what}", reason))
        return None


def _kind(folder: str) -> str | None:
    folded = folder.casefold()
    if folded in MASK_FOLDERS:
        return MASK
    return CAPTION if folded in CAPTION_FOLDERS else None
